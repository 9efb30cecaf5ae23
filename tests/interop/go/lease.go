// Leases.
package main

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

var leaseCases = []testCase{
	{name: "a lease has the id that was asked for, once", run: leaseIDs},
	{name: "a lease knows its keys and its time", run: leaseKeys},
	{name: "a revoked lease deletes its keys in one revision, in order", run: leaseRevoke},
	{name: "a lease that runs out deletes its keys", run: leaseExpiry},
	{name: "a lease that is kept alive goes on", run: leaseKeepAlive},
	{name: "a keep-alive of no lease has no time", run: leaseGone},
	{name: "a key belongs to its last lease only", run: leaseMoves},
}

func leaseIDs(e *env) error {
	grant := func(ttl, id int64) (*pb.LeaseGrantResponse, error) {
		client := pb.NewLeaseClient(e.client.ActiveConnection())
		return client.LeaseGrant(e.ctx, &pb.LeaseGrantRequest{TTL: ttl, ID: id})
	}
	id := time.Now().UnixNano()
	chosen, err := grant(30, id)
	if err != nil {
		return err
	}
	_, again := grant(30, id)
	short, err := grant(1, 0)
	if err != nil {
		return err
	}
	_, long := grant(9_000_000_001, 0)
	_, revokeUnknown := e.client.Revoke(e.ctx, clientv3.LeaseID(id+1))
	return errors.Join(
		expect("id", chosen.ID, id),
		expect("ttl", chosen.TTL, 30),
		expectError("again", again, rpctypes.ErrGRPCLeaseExist),
		expect("the server chooses a positive id", short.ID > 0, true),
		expect("the least time is more than an election takes", short.TTL, 2),
		expectError("too long", long, rpctypes.ErrGRPCLeaseTTLTooLarge),
		expectError("revoke unknown", revokeUnknown, rpctypes.ErrLeaseNotFound),
	)
}

func leaseKeys(e *env) error {
	lease, err := e.client.Grant(e.ctx, 100)
	if err != nil {
		return err
	}
	for _, name := range []string{"c", "a", "b"} {
		if _, err := e.put(name, "v", clientv3.WithLease(lease.ID)); err != nil {
			return err
		}
	}
	if _, err := e.client.Delete(e.ctx, e.key("b")); err != nil {
		return err
	}
	with, err := e.client.TimeToLive(e.ctx, lease.ID, clientv3.WithAttachedKeys())
	if err != nil {
		return err
	}
	without, err := e.client.TimeToLive(e.ctx, lease.ID)
	if err != nil {
		return err
	}
	list, err := e.client.Leases(e.ctx)
	if err != nil {
		return err
	}
	kv, err := e.client.Get(e.ctx, e.key("a"))
	if err != nil {
		return err
	}
	var keys []string
	for _, key := range with.Keys {
		keys = append(keys, strings.TrimPrefix(string(key), e.prefix))
	}
	slices.Sort(keys)
	listed := slices.ContainsFunc(list.Leases, func(l clientv3.LeaseStatus) bool { return l.ID == lease.ID })
	return errors.Join(
		expect("keys", strings.Join(keys, " "), "a c"),
		expect("granted", with.GrantedTTL, 100),
		expect("remaining", with.TTL > 90 && with.TTL <= 100, true),
		expect("no keys unless asked", len(without.Keys), 0),
		expect("listed", listed, true),
		expect("lease of the key", kv.Kvs[0].Lease, int64(lease.ID)),
	)
}

func leaseRevoke(e *env) error {
	lease, err := e.client.Grant(e.ctx, 100)
	if err != nil {
		return err
	}
	var last int64
	for _, name := range []string{"c", "a", "d", "b"} {
		if last, err = e.put(name, "v", clientv3.WithLease(lease.ID)); err != nil {
			return err
		}
	}
	channel := e.client.Watch(e.ctx, e.prefix, clientv3.WithPrefix(), clientv3.WithRev(last+1))
	revoked, err := e.client.Revoke(e.ctx, lease.ID)
	if err != nil {
		return err
	}
	events, err := e.collect(channel, 4)
	if err != nil {
		return err
	}
	order := ""
	for _, event := range events {
		order += event.Type.String() + strings.TrimPrefix(string(event.Kv.Key), e.prefix) + " "
		if err := expect("revision", event.Kv.ModRevision, last+1); err != nil {
			return err
		}
	}
	empty, err := e.client.Grant(e.ctx, 100)
	if err != nil {
		return err
	}
	nothing, err := e.client.Revoke(e.ctx, empty.ID)
	if err != nil {
		return err
	}
	gone, err := e.client.TimeToLive(e.ctx, lease.ID)
	if err != nil {
		return err
	}
	return errors.Join(
		expect("order", order, "DELETEa DELETEb DELETEc DELETEd "),
		expect("header", revoked.Header.Revision, last+1),
		expect("without keys no revision", nothing.Header.Revision, last+1),
		expect("time of a lease that is gone", gone.TTL, -1),
	)
}

func leaseExpiry(e *env) error {
	lease, err := e.client.Grant(e.ctx, 2)
	if err != nil {
		return err
	}
	start := time.Now()
	revision, err := e.put("k", "v", clientv3.WithLease(lease.ID))
	if err != nil {
		return err
	}
	if _, err := e.put("other", "v"); err != nil {
		return err
	}
	events, err := e.collect(e.client.Watch(e.ctx, e.prefix, clientv3.WithPrefix(), clientv3.WithRev(revision+2)), 1)
	if err != nil {
		return err
	}
	elapsed := time.Since(start)
	gone, err := e.client.TimeToLive(e.ctx, lease.ID)
	if err != nil {
		return err
	}
	_, late := e.put("late", "v", clientv3.WithLease(lease.ID))
	return errors.Join(
		expect("key", string(events[0].Kv.Key), e.key("k")),
		expect("not before its time", elapsed >= 1900*time.Millisecond, true),
		expect("gone", gone.TTL, -1),
		expectError("late", errors.Unwrap(late), rpctypes.ErrLeaseNotFound),
	)
}

func leaseKeepAlive(e *env) error {
	lease, err := e.client.Grant(e.ctx, 2)
	if err != nil {
		return err
	}
	if _, err := e.put("k", "v", clientv3.WithLease(lease.ID)); err != nil {
		return err
	}
	channel, err := e.client.KeepAlive(e.ctx, lease.ID)
	if err != nil {
		return err
	}
	deadline := time.After(5 * time.Second)
	answers := 0
	for waiting := true; waiting; {
		select {
		case response, ok := <-channel:
			if !ok {
				return fmt.Errorf("the lease ended after %d answers", answers)
			}
			if err := expect("ttl", response.TTL, 2); err != nil {
				return err
			}
			answers++
		case <-deadline:
			waiting = false
		}
	}
	once, err := e.client.KeepAliveOnce(e.ctx, lease.ID)
	if err != nil {
		return err
	}
	kv, err := e.client.Get(e.ctx, e.key("k"))
	if err != nil {
		return err
	}
	return errors.Join(
		expect("once", once.TTL, 2),
		expect("several answers", answers >= 3, true),
		expect("the key is there", kv.Count, 1),
	)
}

func leaseGone(e *env) error {
	_, once := e.client.KeepAliveOnce(e.ctx, 4242)
	stream, err := pb.NewLeaseClient(e.client.ActiveConnection()).LeaseKeepAlive(e.ctx)
	if err != nil {
		return err
	}
	lease, err := e.client.Grant(e.ctx, 50)
	if err != nil {
		return err
	}
	var times []int64
	for _, id := range []int64{4242, int64(lease.ID), 4243} {
		if err := stream.Send(&pb.LeaseKeepAliveRequest{ID: id}); err != nil {
			return err
		}
		response, err := stream.Recv()
		if err != nil {
			return err
		}
		if err := expect("id", response.ID, id); err != nil {
			return err
		}
		times = append(times, response.TTL)
	}
	return errors.Join(
		expectError("once", once, rpctypes.ErrLeaseNotFound),
		expect("times", fmt.Sprint(times), "[0 50 0]"),
	)
}

func leaseMoves(e *env) error {
	first, err := e.client.Grant(e.ctx, 100)
	if err != nil {
		return err
	}
	second, err := e.client.Grant(e.ctx, 100)
	if err != nil {
		return err
	}
	for _, options := range [][]clientv3.OpOption{
		{clientv3.WithLease(first.ID)}, {clientv3.WithLease(second.ID)}, {clientv3.WithIgnoreLease()},
	} {
		if _, err := e.put("k", "v", options...); err != nil {
			return err
		}
	}
	if _, err := e.client.Revoke(e.ctx, first.ID); err != nil {
		return err
	}
	kept, err := e.client.Get(e.ctx, e.key("k"))
	if err != nil {
		return err
	}
	if _, err := e.put("k", "free"); err != nil {
		return err
	}
	if _, err := e.client.Revoke(e.ctx, second.ID); err != nil {
		return err
	}
	free, err := e.client.Get(e.ctx, e.key("k"))
	if err != nil {
		return err
	}
	return errors.Join(
		expect("kept by the second lease", kept.Count, 1),
		expect("its lease", kept.Kvs[0].Lease, int64(second.ID)),
		expect("kept without a lease", free.Count, 1),
		expect("no lease", free.Kvs[0].Lease, 0),
	)
}
