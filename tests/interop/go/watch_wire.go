// Watches as the protocol has them, below what the client offers.
package main

import (
	"errors"
	"fmt"
	"strings"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

var watchWireCases = []testCase{
	{name: "watchers on one stream are told apart by their ids", run: wireIDs},
	{name: "a canceled watcher is silent and its id is free", run: wireCancel},
	{name: "a watcher of nothing valid is refused", run: wireRefusals},
	{name: "a large response comes in fragments if asked for", run: wireFragments},
	{name: "progress of a whole stream has no watcher's id", run: wireProgress},
}

type wire struct {
	e      *env
	stream pb.Watch_WatchClient
}

func (e *env) openWire() (*wire, error) {
	stream, err := pb.NewWatchClient(e.client.ActiveConnection()).Watch(e.ctx)
	return &wire{e, stream}, err
}

func (w *wire) create(request *pb.WatchCreateRequest) (*pb.WatchResponse, error) {
	union := &pb.WatchRequest_CreateRequest{CreateRequest: request}
	if err := w.stream.Send(&pb.WatchRequest{RequestUnion: union}); err != nil {
		return nil, err
	}
	return w.stream.Recv()
}

func (w *wire) cancel(id int64) error {
	union := &pb.WatchRequest_CancelRequest{CancelRequest: &pb.WatchCancelRequest{WatchId: id}}
	return w.stream.Send(&pb.WatchRequest{RequestUnion: union})
}

func (w *wire) request(name string) *pb.WatchCreateRequest {
	return &pb.WatchCreateRequest{Key: []byte(w.e.key(name))}
}

func wireIDs(e *env) error {
	w, err := e.openWire()
	if err != nil {
		return err
	}
	first, err := w.create(w.request("a"))
	if err != nil {
		return err
	}
	second, err := w.create(w.request("a"))
	if err != nil {
		return err
	}
	request := w.request("a")
	request.WatchId = 77
	chosen, err := w.create(request)
	if err != nil {
		return err
	}
	again, err := w.create(request)
	if err != nil {
		return err
	}
	if err := errors.Join(
		expect("first id", first.WatchId, 0),
		expect("second id", second.WatchId, 1),
		expect("chosen id", chosen.WatchId, 77),
		expect("created", first.Created && second.Created && chosen.Created, true),
		expect("id in use: created", again.Created, true),
		expect("id in use: canceled", again.Canceled, true),
		expect("id in use: id", again.WatchId, -1),
		expect("id in use: reason", again.CancelReason, "mvcc: duplicate watch ID provided on the WatchStream"),
	); err != nil {
		return err
	}
	revision, err := e.put("a", "1")
	if err != nil {
		return err
	}
	seen := map[int64]int{}
	for range 3 {
		response, err := w.stream.Recv()
		if err != nil {
			return err
		}
		seen[response.WatchId] += len(response.Events)
		if err := expect("header", response.Header.Revision, revision); err != nil {
			return err
		}
	}
	return expect("an event for each", fmt.Sprint(seen), "map[0:1 1:1 77:1]")
}

func wireCancel(e *env) error {
	w, err := e.openWire()
	if err != nil {
		return err
	}
	request := w.request("a")
	request.WatchId = 5
	if _, err := w.create(request); err != nil {
		return err
	}
	if err := errors.Join(w.cancel(999), w.cancel(5)); err != nil {
		return err
	}
	canceled, err := w.stream.Recv()
	if err != nil {
		return err
	}
	if _, err := e.put("a", "unseen"); err != nil {
		return err
	}
	created, err := w.create(request)
	if err != nil {
		return err
	}
	if _, err := e.put("a", "seen"); err != nil {
		return err
	}
	event, err := w.stream.Recv()
	if err != nil {
		return err
	}
	return errors.Join(
		expect("an unknown id is passed over", canceled.WatchId, 5),
		expect("canceled", canceled.Canceled, true),
		expect("reason", canceled.CancelReason, ""),
		expect("the id is free", created.Created && !created.Canceled, true),
		expect("value", string(event.Events[0].Kv.Value), "seen"),
	)
}

func wireRefusals(e *env) error {
	w, err := e.openWire()
	if err != nil {
		return err
	}
	// An empty range is no error here, other than in KV: nothing can happen in it.
	reverse := w.request("b")
	reverse.RangeEnd = []byte(e.key("a"))
	refused, err := w.create(reverse)
	if err != nil {
		return err
	}
	future := w.request("a")
	future.StartRevision = 1 << 40
	created, err := w.create(future)
	if err != nil {
		return err
	}
	whole, err := w.create(&pb.WatchCreateRequest{})
	if err != nil {
		return err
	}
	return errors.Join(
		expect("empty range: canceled", refused.Canceled, true),
		expect("empty range: id", refused.WatchId, -1),
		expect("empty range: reason", refused.CancelReason, "mvcc: watcher range is empty"),
		expect("future: created", created.Created && !created.Canceled, true),
		expect("no key means the zero byte", whole.Created && !whole.Canceled, true),
	)
}

// wireFragments deletes 6 MiB with their previous values: one revision, which nobody may split but
// for who asked for it.
func wireFragments(e *env) error {
	const keys = 24
	value := strings.Repeat("v", 256<<10)
	if _, err := e.fill("k", keys, value); err != nil {
		return err
	}
	w, err := e.openWire()
	if err != nil {
		return err
	}
	request := w.request("k")
	request.RangeEnd = []byte(clientv3.GetPrefixRangeEnd(e.key("k")))
	request.PrevKv = true
	request.Fragment = true
	if _, err := w.create(request); err != nil {
		return err
	}
	deleted, err := e.client.Delete(e.ctx, e.key("k"), clientv3.WithPrefix())
	if err != nil {
		return err
	}
	var events []*mvccpb.Event
	var fragments []bool
	for len(events) < keys {
		response, err := w.stream.Recv()
		if err != nil {
			return err
		}
		if err := expect("revision", response.Header.Revision, deleted.Header.Revision); err != nil {
			return err
		}
		fragments = append(fragments, response.Fragment)
		events = append(events, response.Events...)
	}
	for number, event := range events {
		if err := errors.Join(
			expect("key", string(event.Kv.Key), e.key(fmt.Sprintf("k%06d", number))),
			expect("previous value", string(event.PrevKv.Value), value),
		); err != nil {
			return err
		}
	}
	last := len(fragments) - 1
	for number, fragment := range fragments {
		if err := expect("more follows", fragment, number < last); err != nil {
			return err
		}
	}
	return expect("6 MiB in pieces of about 2", last >= 2, true)
}

func wireProgress(e *env) error {
	w, err := e.openWire()
	if err != nil {
		return err
	}
	if _, err := w.create(w.request("a")); err != nil {
		return err
	}
	revision, err := e.put("b", "1")
	if err != nil {
		return err
	}
	union := &pb.WatchRequest_ProgressRequest{ProgressRequest: &pb.WatchProgressRequest{}}
	if err := w.stream.Send(&pb.WatchRequest{RequestUnion: union}); err != nil {
		return err
	}
	response, err := w.stream.Recv()
	if err != nil {
		return err
	}
	return errors.Join(
		expect("id", response.WatchId, -1),
		expect("events", len(response.Events), 0),
		expect("revision", response.Header.Revision >= revision, true),
	)
}
