// A TCP proxy whose connections can be cut: what a client sees when a network or a server fails.
package main

import (
	"io"
	"net"
	"sync"
)

type proxy struct {
	listener net.Listener
	target   string
	mutex    sync.Mutex
	open     map[net.Conn]struct{}
}

func newProxy(target string) (*proxy, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	p := &proxy{listener: listener, target: target, open: map[net.Conn]struct{}{}}
	go p.accept()
	return p, nil
}

func (p *proxy) address() string { return p.listener.Addr().String() }

func (p *proxy) accept() {
	for {
		near, err := p.listener.Accept()
		if err != nil {
			return
		}
		far, err := net.Dial("tcp", p.target)
		if err != nil {
			near.Close()
			continue
		}
		p.mutex.Lock()
		p.open[near], p.open[far] = struct{}{}, struct{}{}
		p.mutex.Unlock()
		go p.copy(near, far)
		go p.copy(far, near)
	}
}

func (p *proxy) copy(to, from net.Conn) {
	// An error ends the connection, as it would without a proxy.
	_, _ = io.Copy(to, from)
	to.Close()
	from.Close()
	p.mutex.Lock()
	delete(p.open, to)
	delete(p.open, from)
	p.mutex.Unlock()
}

// cut ends all connections; new ones are accepted.
func (p *proxy) cut() {
	p.mutex.Lock()
	defer p.mutex.Unlock()
	for connection := range p.open {
		connection.Close()
	}
}

func (p *proxy) close() {
	p.listener.Close()
	p.cut()
}
