// Watches, as the client offers them.
package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

var watchCases = []testCase{
	{name: "a watch from a past revision tells all that happened since", run: watchPast},
	{name: "a watch goes on where another was canceled", run: watchResumed},
	{name: "a watch survives lost connections without loss or repetition", run: watchReconnected},
	{name: "the events of one transaction come together and in order", run: watchAtomic},
	{name: "filters and prev_kv shape events", run: watchShapes},
	{name: "a watch of a compacted revision says so", run: watchCompacted},
	{name: "progress can be asked for", run: watchProgress},
	{name: "two hundred watchers of one client all get the event", run: watchMany},
}

// collect reads events until it has count of them.
func (e *env) collect(channel clientv3.WatchChan, count int) (events []*clientv3.Event, err error) {
	for len(events) < count {
		select {
		case response, ok := <-channel:
			if !ok {
				return events, fmt.Errorf("the watch ended after %d of %d events", len(events), count)
			}
			if err := response.Err(); err != nil {
				return events, err
			}
			events = append(events, response.Events...)
		case <-e.ctx.Done():
			return events, fmt.Errorf("%d of %d events: %w", len(events), count, e.ctx.Err())
		}
	}
	return events, nil
}

// inOrder checks that events are puts of values 0, 1, 2, ... with rising revisions.
func inOrder(events []*clientv3.Event, first int) error {
	var revision int64
	for number, event := range events {
		if err := expect("value", string(event.Kv.Value), fmt.Sprint(first+number)); err != nil {
			return err
		}
		if event.Kv.ModRevision <= revision {
			return fmt.Errorf("revision %d after %d", event.Kv.ModRevision, revision)
		}
		revision = event.Kv.ModRevision
	}
	return nil
}

func (e *env) putNumbers(from, to int) (first int64, err error) {
	for number := from; number < to; number++ {
		revision, err := e.put("k", fmt.Sprint(number))
		if err != nil {
			return 0, err
		}
		if first == 0 {
			first = revision
		}
	}
	return first, nil
}

func watchPast(e *env) error {
	first, err := e.putNumbers(0, 50)
	if err != nil {
		return err
	}
	channel := e.client.Watch(e.ctx, e.key("k"), clientv3.WithRev(first))
	if _, err := e.putNumbers(50, 100); err != nil {
		return err
	}
	events, err := e.collect(channel, 100)
	if err != nil {
		return err
	}
	return errors.Join(expect("events", len(events), 100), inOrder(events, 0))
}

func watchResumed(e *env) error {
	const rounds, each = 6, 20
	revision, err := e.putNumbers(0, each)
	if err != nil {
		return err
	}
	next, written := 0, each
	for round := 0; round < rounds; round++ {
		ctx, cancel := context.WithCancel(e.ctx)
		channel := e.client.Watch(ctx, e.key("k"), clientv3.WithRev(revision))
		// The last round reads what is left, the others only a part.
		count := 5
		if round == rounds-1 {
			count = written - next
		}
		events, err := e.collect(channel, count)
		cancel()
		if err != nil {
			return err
		}
		if err := inOrder(events, next); err != nil {
			return err
		}
		next += len(events)
		revision = events[len(events)-1].Kv.ModRevision + 1
		if round < rounds-1 {
			// Nobody watches now.
			if _, err := e.putNumbers(written, written+each); err != nil {
				return err
			}
			written += each
		}
	}
	return expect("events", next, written)
}

func watchReconnected(e *env) error {
	const count = 300
	proxy, err := newProxy(e.endpoint)
	if err != nil {
		return err
	}
	defer proxy.close()
	watching, err := connect(proxy.address())
	if err != nil {
		return err
	}
	defer watching.Close()
	channel := watching.Watch(e.ctx, e.key("k"), clientv3.WithCreatedNotify())
	if created := <-channel; !created.Created {
		return fmt.Errorf("the first response is %v", created)
	}
	var events []*clientv3.Event
	for number := 0; number < count; number += 30 {
		if _, err := e.putNumbers(number, number+30); err != nil {
			return err
		}
		proxy.cut()
		if number%60 == 0 {
			more, err := e.collect(channel, 10)
			if err != nil {
				return err
			}
			events = append(events, more...)
		}
	}
	more, err := e.collect(channel, count-len(events))
	if err != nil {
		return err
	}
	events = append(events, more...)
	return errors.Join(expect("events", len(events), count), inOrder(events, 0))
}

func watchAtomic(e *env) error {
	if _, err := e.put("gone", "x"); err != nil {
		return err
	}
	channel := e.client.Watch(e.ctx, e.prefix, clientv3.WithPrefix(), clientv3.WithCreatedNotify())
	<-channel
	_, err := e.client.Txn(e.ctx).Then(
		clientv3.OpPut(e.key("z"), "1"), clientv3.OpDelete(e.key("gone")), clientv3.OpPut(e.key("a"), "2"),
	).Commit()
	if err != nil {
		return err
	}
	response := <-channel
	if err := expect("events", len(response.Events), 3); err != nil {
		return err
	}
	found := ""
	for _, event := range response.Events {
		found += event.Type.String() + strings.TrimPrefix(string(event.Kv.Key), e.prefix) + " "
		if err := expect("revision", event.Kv.ModRevision, response.Header.Revision); err != nil {
			return err
		}
	}
	return expect("order", found, "PUTz DELETEgone PUTa ")
}

func watchShapes(e *env) error {
	first, err := e.put("k", "1")
	if err != nil {
		return err
	}
	if _, err := e.put("k", "2"); err != nil {
		return err
	}
	if _, err := e.client.Delete(e.ctx, e.key("k")); err != nil {
		return err
	}
	if _, err := e.put("k", "3"); err != nil {
		return err
	}
	watch := func(count int, options ...clientv3.OpOption) ([]*clientv3.Event, error) {
		return e.collect(e.client.Watch(e.ctx, e.key("k"), append(options, clientv3.WithRev(first))...), count)
	}
	deletes, err := watch(1, clientv3.WithFilterPut())
	if err != nil {
		return err
	}
	puts, err := watch(3, clientv3.WithFilterDelete())
	if err != nil {
		return err
	}
	all, err := watch(4, clientv3.WithPrevKV())
	if err != nil {
		return err
	}
	return errors.Join(
		expect("only deletions", deletes[0].Type, mvccpb.Event_DELETE),
		expect("a deletion has no value", len(deletes[0].Kv.Value), 0),
		expect("a deletion has no version", deletes[0].Kv.Version, 0),
		expect("a deletion has no create revision", deletes[0].Kv.CreateRevision, 0),
		expect("a deletion has its revision", deletes[0].Kv.ModRevision, first+2),
		expect("only puts", string(puts[2].Kv.Value), "3"),
		expect("created", puts[0].IsCreate(), true),
		expect("modified", puts[1].IsModify(), true),
		expect("created again", puts[2].IsCreate(), true),
		expect("nothing before the first", all[0].PrevKv == nil, true),
		expect("before the second", string(all[1].PrevKv.Value), "1"),
		expect("before the deletion", string(all[2].PrevKv.Value), "2"),
		expect("nothing after the deletion", all[3].PrevKv == nil, true),
	)
}

func watchCompacted(e *env) error {
	first, err := e.putNumbers(0, 5)
	if err != nil {
		return err
	}
	if _, err := e.client.Compact(e.ctx, first+3); err != nil {
		return err
	}
	response := <-e.client.Watch(e.ctx, e.key("k"), clientv3.WithRev(first))
	kept, err := e.collect(e.client.Watch(e.ctx, e.key("k"), clientv3.WithRev(first+3)), 2)
	if err != nil {
		return err
	}
	return errors.Join(
		expectError("compacted", response.Err(), rpctypes.ErrCompacted),
		expect("compact revision", response.CompactRevision, first+3),
		expect("canceled", response.Canceled, true),
		inOrder(kept, 3),
	)
}

func watchProgress(e *env) error {
	revision, err := e.put("other", "1")
	if err != nil {
		return err
	}
	channel := e.client.Watch(e.ctx, e.key("k"), clientv3.WithCreatedNotify())
	<-channel
	if err := e.client.RequestProgress(e.ctx); err != nil {
		return err
	}
	select {
	case response := <-channel:
		return errors.Join(
			expect("progress", response.IsProgressNotify(), true),
			expect("revision", response.Header.Revision >= revision, true),
		)
	case <-e.ctx.Done():
		return e.ctx.Err()
	}
}

func watchMany(e *env) error {
	const watchers = 200
	var channels []clientv3.WatchChan
	for number := 0; number < watchers; number++ {
		channel := e.client.Watch(e.ctx, e.prefix, clientv3.WithPrefix(), clientv3.WithCreatedNotify())
		<-channel
		channels = append(channels, channel)
	}
	if _, err := e.putNumbers(0, 20); err != nil {
		return err
	}
	for _, channel := range channels {
		events, err := e.collect(channel, 20)
		if err != nil {
			return err
		}
		if err := inOrder(events, 0); err != nil {
			return err
		}
	}
	return nil
}
