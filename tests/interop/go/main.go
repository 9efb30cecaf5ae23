// Command client checks a server with etcd's official Go client, and prints PASS or FAIL a case.
//
// The cases say what the client promises its users: if etcd passes and varve does not, programs
// written for etcd break. Each case works below a prefix of its own, so that the order of cases
// and what else is in the server do not matter. The exit code is 1 if a case fails.
//
//	client -endpoint 127.0.0.1:2379 [-only watch] [-varve]
//
// With -varve, cases of what varve does not do yet must fail because a method is unimplemented, and
// are printed as LATER; one that passes is a failure, so that its mark is taken away.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
)

// caseTimeout bounds one case; none waits for more than a lease of some seconds.
const caseTimeout = 60 * time.Second

// testCase is one promise, named by a sentence.
type testCase struct {
	name string
	run  func(*env) error
	// notYet marks a case that needs methods which varve does not have yet.
	notYet bool
}

// env is what a case may use.
type env struct {
	ctx      context.Context
	client   *clientv3.Client
	endpoint string
	// prefix is the case's own part of the key space.
	prefix string
}

// key returns a key of this case.
func (e *env) key(name string) string { return e.prefix + name }

// put writes a key of this case and returns the revision.
func (e *env) put(name, value string, options ...clientv3.OpOption) (int64, error) {
	response, err := e.client.Put(e.ctx, e.key(name), value, options...)
	if err != nil {
		return 0, fmt.Errorf("put %s: %w", name, err)
	}
	return response.Header.Revision, nil
}

// fill writes count keys name000000.. with the given value and returns the last revision.
func (e *env) fill(name string, count int, value string) (revision int64, err error) {
	for number := 0; number < count; number++ {
		if revision, err = e.put(fmt.Sprintf("%s%06d", name, number), value); err != nil {
			return 0, err
		}
	}
	return revision, nil
}

func connect(endpoint string) (*clientv3.Client, error) {
	return clientv3.New(clientv3.Config{
		Endpoints:   []string{endpoint},
		DialTimeout: 5 * time.Second,
		// The client's own log tells of expected errors too.
		Logger: zap.NewNop(),
	})
}

func runCase(endpoint string, number int, c testCase) error {
	client, err := connect(endpoint)
	if err != nil {
		return err
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(context.Background(), caseTimeout)
	defer cancel()
	// With the time in it, a second run on the same data finds nothing of the first.
	prefix := fmt.Sprintf("case%02d-%d/", number, time.Now().UnixNano())
	return c.run(&env{ctx, client, endpoint, prefix})
}

// expect returns an error unless found is wanted.
func expect[T comparable](what string, found, wanted T) error {
	if found != wanted {
		return fmt.Errorf("%s: found %v, wanted %v", what, found, wanted)
	}
	return nil
}

// expectError returns an error unless found is (or wraps) wanted.
func expectError(what string, found, wanted error) error {
	if found == nil || (!errors.Is(found, wanted) && found.Error() != wanted.Error()) {
		return fmt.Errorf("%s: found error %v, wanted %v", what, found, wanted)
	}
	return nil
}

func main() {
	endpoint := flag.String("endpoint", "127.0.0.1:2379", "host:port of the server")
	varve := flag.Bool("varve", false, "the server is varve, which does not do everything yet")
	only := flag.String("only", "", "run cases whose name contains this")
	flag.Parse()
	var cases []testCase
	for _, group := range [][]testCase{
		kvCases, txnCases, streamCases, watchCases, watchWireCases, leaseCases, errorCases, otherCases,
	} {
		cases = append(cases, group...)
	}
	failed := 0
	for number, c := range cases {
		if !strings.Contains(c.name, *only) {
			continue
		}
		start := time.Now()
		err := runCase(*endpoint, number, c)
		elapsed := time.Since(start).Round(time.Millisecond)
		if *varve && c.notYet {
			if err != nil && strings.Contains(err.Error(), "Unimplemented") {
				fmt.Printf("LATER %s\n", c.name)
				continue
			}
			err = fmt.Errorf("marked as not supported yet, but: %v", err)
		}
		if err != nil {
			failed++
			fmt.Printf("FAIL %s (%v): %v\n", c.name, elapsed, err)
			continue
		}
		fmt.Printf("PASS %s (%v)\n", c.name, elapsed)
	}
	if failed > 0 {
		fmt.Printf("%d cases failed\n", failed)
		os.Exit(1)
	}
}
