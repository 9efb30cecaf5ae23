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
	{"watchers on one stream are told apart by their ids", wireIDs},
	{"a canceled watcher is silent and its id is free", wireCancel},
	{"a watcher of nothing valid is refused", wireRefusals},
	{"a large response comes in fragments if asked for", wireFragments},
	{"progress of a whole stream has no watcher's id", wireProgress},
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

func wireFragments(e *env) error {
	const keys = 24
	value := strings.Repeat("v", 256<<10)
	var first int64
	for number := range keys {
		revision, err := e.put(fmt.Sprintf("k%02d", number), value)
		if err != nil {
			return err
		}
		if number == 0 {
			first = revision
		}
	}
	w, err := e.openWire()
	if err != nil {
		return err
	}
	request := w.request("k")
	request.RangeEnd = []byte(clientv3.GetPrefixRangeEnd(e.key("k")))
	request.StartRevision = first
	request.Fragment = true
	if _, err := w.create(request); err != nil {
		return err
	}
	var events []*mvccpb.Event
	fragments := 0
	for len(events) < keys {
		response, err := w.stream.Recv()
		if err != nil {
			return err
		}
		if response.Fragment {
			fragments++
		}
		events = append(events, response.Events...)
	}
	for number, event := range events {
		if err := errors.Join(
			expect("key", string(event.Kv.Key), e.key(fmt.Sprintf("k%02d", number))),
			expect("value", string(event.Kv.Value), value),
		); err != nil {
			return err
		}
	}
	if fragments == 0 {
		return fmt.Errorf("6 MiB of events came in one piece")
	}
	return nil
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
