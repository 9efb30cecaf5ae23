// Transactions.
package main

import (
	"errors"
	"fmt"
	"strconv"
	"sync"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

var txnCases = []testCase{
	{name: "each comparison holds when it should", run: comparisons},
	{name: "a comparison of a range holds if it holds for all keys", run: rangeComparisons},
	{name: "operations see those before them and share one revision", run: oneRevision},
	{name: "transactions nest, and the answers too", run: nested},
	{name: "limits and duplicate keys count through nested transactions", run: nestedLimits},
	{name: "a transaction that fails leaves nothing behind", run: rollback},
	{name: "increments by compare and swap are never lost", run: counters},
}

func comparisons(e *env) error {
	lease, err := e.client.Grant(e.ctx, 60)
	if err != nil {
		return err
	}
	created, err := e.put("k", "a")
	if err != nil {
		return err
	}
	modified, err := e.put("k", "m", clientv3.WithLease(lease.ID))
	if err != nil {
		return err
	}
	key, absent := e.key("k"), e.key("absent")
	for number, test := range []struct {
		compare clientv3.Cmp
		holds   bool
	}{
		{clientv3.Compare(clientv3.Value(key), "=", "m"), true},
		{clientv3.Compare(clientv3.Value(key), "!=", "m"), false},
		{clientv3.Compare(clientv3.Value(key), "<", "n"), true},
		{clientv3.Compare(clientv3.Value(key), ">", "lzzz"), true},
		{clientv3.Compare(clientv3.Value(key), ">", "m"), false},
		{clientv3.Compare(clientv3.Version(key), "=", 2), true},
		{clientv3.Compare(clientv3.Version(key), "<", 2), false},
		{clientv3.Compare(clientv3.CreateRevision(key), "=", created), true},
		{clientv3.Compare(clientv3.CreateRevision(key), ">", created), false},
		{clientv3.Compare(clientv3.ModRevision(key), "=", modified), true},
		{clientv3.Compare(clientv3.ModRevision(key), "!=", created), true},
		{clientv3.Compare(clientv3.LeaseValue(key), "=", lease.ID), true},
		{clientv3.Compare(clientv3.LeaseValue(key), "=", clientv3.LeaseID(0)), false},
		{clientv3.Compare(clientv3.LeaseValue(key), ">", clientv3.LeaseID(0)), true},
		{clientv3.Compare(clientv3.Version(absent), "=", 0), true},
		{clientv3.Compare(clientv3.CreateRevision(absent), "=", 0), true},
		{clientv3.Compare(clientv3.ModRevision(absent), "<", 1), true},
		{clientv3.Compare(clientv3.LeaseValue(absent), "=", clientv3.LeaseID(0)), true},
		{clientv3.Compare(clientv3.Value(absent), "=", ""), false},
		{clientv3.Compare(clientv3.Value(absent), "!=", "x"), false},
	} {
		response, err := e.client.Txn(e.ctx).If(test.compare).Commit()
		if err != nil {
			return err
		}
		if err := expect(fmt.Sprintf("comparison %d", number), response.Succeeded, test.holds); err != nil {
			return err
		}
	}
	return nil
}

func rangeComparisons(e *env) error {
	if _, err := e.fill("k", 3, "same"); err != nil {
		return err
	}
	if _, err := e.put("k000001", "same"); err != nil {
		return err
	}
	all := func(compare clientv3.Cmp) clientv3.Cmp { return compare.WithPrefix() }
	for _, test := range []struct {
		what    string
		compare clientv3.Cmp
		holds   bool
	}{
		{"value of all", all(clientv3.Compare(clientv3.Value(e.prefix), "=", "same")), true},
		{"version of all", all(clientv3.Compare(clientv3.Version(e.prefix), "=", 1)), false},
		{"version of all below", all(clientv3.Compare(clientv3.Version(e.prefix), "<", 3)), true},
		{"version in a range", clientv3.Compare(clientv3.Version(e.key("k000002")), "=", 1).WithRange(e.key("l")), true},
		{"nothing there, version 0", all(clientv3.Compare(clientv3.Version(e.key("none")), "=", 0)), true},
		{"nothing there, version 1", all(clientv3.Compare(clientv3.Version(e.key("none")), "=", 1)), false},
		{"nothing there, any value", all(clientv3.Compare(clientv3.Value(e.key("none")), "=", "x")), false},
	} {
		response, err := e.client.Txn(e.ctx).If(test.compare).Commit()
		if err != nil {
			return fmt.Errorf("%s: %w", test.what, err)
		}
		if err := expect(test.what, response.Succeeded, test.holds); err != nil {
			return err
		}
	}
	return nil
}

func oneRevision(e *env) error {
	before, err := e.put("k", "0")
	if err != nil {
		return err
	}
	response, err := e.client.Txn(e.ctx).Then(
		clientv3.OpGet(e.key("k")),
		clientv3.OpDelete(e.key("k"), clientv3.WithPrevKV()),
		clientv3.OpGet(e.key("k")),
		clientv3.OpPut(e.key("l"), "1"),
		clientv3.OpPut(e.key("m"), "2", clientv3.WithPrevKV()),
		clientv3.OpGet(e.prefix, clientv3.WithPrefix()),
	).Commit()
	if err != nil {
		return err
	}
	kvs := response.Responses[5].GetResponseRange().Kvs
	if err := expect("keys seen at the end", len(kvs), 2); err != nil {
		return err
	}
	nothing, err := e.client.Txn(e.ctx).Then(clientv3.OpDelete(e.key("none")), clientv3.OpGet(e.key("l"))).Commit()
	if err != nil {
		return err
	}
	return errors.Join(
		expect("revision", response.Header.Revision, before+1),
		expect("seen at first", response.Responses[0].GetResponseRange().Count, 1),
		expect("deleted", string(response.Responses[1].GetResponseDeleteRange().PrevKvs[0].Value), "0"),
		expect("seen after the deletion", response.Responses[2].GetResponseRange().Count, 0),
		expect("no version before", response.Responses[4].GetResponsePut().PrevKv == nil, true),
		expect("first put", kvs[0].ModRevision, before+1),
		expect("second put", kvs[1].ModRevision, before+1),
		expect("created by the second put", kvs[1].CreateRevision, before+1),
		expect("without a change no revision", nothing.Header.Revision, before+1),
	)
}

func nested(e *env) error {
	if _, err := e.put("k", "1"); err != nil {
		return err
	}
	inner := clientv3.OpTxn(
		[]clientv3.Cmp{clientv3.Compare(clientv3.Value(e.key("k")), "=", "2")},
		[]clientv3.Op{clientv3.OpPut(e.key("inner"), "then"), clientv3.OpGet(e.key("k"))},
		[]clientv3.Op{clientv3.OpPut(e.key("inner"), "else")},
	)
	response, err := e.client.Txn(e.ctx).
		If(clientv3.Compare(clientv3.Value(e.key("k")), "=", "1")).
		Then(clientv3.OpPut(e.key("outer"), "x"), inner, clientv3.OpGet(e.key("inner"))).
		Commit()
	if err != nil {
		return err
	}
	first := response.Responses[1].GetResponseTxn()
	deep := clientv3.OpTxn(nil, []clientv3.Op{clientv3.OpTxn(nil, []clientv3.Op{
		clientv3.OpTxn(nil, []clientv3.Op{clientv3.OpPut(e.key("deep"), "3")}, nil),
	}, nil)}, nil)
	third, err := e.client.Txn(e.ctx).Then(deep, clientv3.OpGet(e.key("deep"))).Commit()
	if err != nil {
		return err
	}
	return errors.Join(
		expect("outer", response.Succeeded, true),
		expect("inner", first.Succeeded, false),
		expect("inner answers", len(first.Responses), 1),
		expect("seen after inner", string(response.Responses[2].GetResponseRange().Kvs[0].Value), "else"),
		expect("one revision", response.Responses[2].GetResponseRange().Kvs[0].ModRevision, response.Header.Revision),
		expect("three deep", string(third.Responses[1].GetResponseRange().Kvs[0].Value), "3"),
	)
}

func nestedLimits(e *env) error {
	puts := func(name string, count int) (operations []clientv3.Op) {
		for number := 0; number < count; number++ {
			operations = append(operations, clientv3.OpPut(e.key(fmt.Sprintf("%s%d", name, number)), "v"))
		}
		return operations
	}
	commit := func(operations ...clientv3.Op) error {
		_, err := e.client.Txn(e.ctx).Then(operations...).Commit()
		return err
	}
	put := clientv3.OpPut(e.key("same"), "v")
	del := clientv3.OpDelete(e.key("same"))
	read := clientv3.OpGet(e.key("same"))
	sub := func(then, otherwise []clientv3.Op) clientv3.Op { return clientv3.OpTxn(nil, then, otherwise) }
	operations := func(list ...clientv3.Op) []clientv3.Op { return list }
	return errors.Join(
		expect("128 operations", commit(puts("a", 128)...), nil),
		expectError("129 operations", commit(puts("a", 129)...), rpctypes.ErrTooManyOps),
		expect("127 in a nested one", commit(sub(puts("b", 127), nil)), nil),
		expectError("128 in a nested one", commit(sub(puts("b", 128), nil)), rpctypes.ErrTooManyOps),
		expectError("put twice", commit(put, put), rpctypes.ErrDuplicateKey),
		expectError("put and delete", commit(put, del), rpctypes.ErrDuplicateKey),
		expectError("delete of a range and put", commit(clientv3.OpDelete(e.prefix, clientv3.WithPrefix()), put), rpctypes.ErrDuplicateKey),
		expect("put and read", commit(put, read), nil),
		expect("delete twice", commit(del, del), nil),
		expectError("put above and within", commit(put, sub(operations(put), nil)), rpctypes.ErrDuplicateKey),
		expectError("put in two nested ones", commit(sub(operations(put), nil), sub(nil, operations(put))), rpctypes.ErrDuplicateKey),
		expect("put in both branches", commit(sub(operations(put), operations(put))), nil),
		expectError("put above, delete within", commit(put, sub(operations(del), nil)), rpctypes.ErrDuplicateKey),
	)
}

func rollback(e *env) error {
	revision, err := e.put("k", "1")
	if err != nil {
		return err
	}
	_, future := e.client.Txn(e.ctx).Then(
		clientv3.OpPut(e.key("k"), "2"), clientv3.OpGet(e.key("k"), clientv3.WithRev(revision+1000)),
	).Commit()
	_, lease := e.client.Txn(e.ctx).Then(
		clientv3.OpPut(e.key("l"), "2"), clientv3.OpPut(e.key("k"), "2", clientv3.WithLease(12345)),
	).Commit()
	_, missing := e.client.Txn(e.ctx).Then(
		clientv3.OpPut(e.key("l"), "2"), clientv3.OpPut(e.key("none"), "", clientv3.WithIgnoreValue()),
	).Commit()
	response, err := e.client.Get(e.ctx, e.prefix, clientv3.WithPrefix())
	if err != nil {
		return err
	}
	return errors.Join(
		expectError("read of the future", future, rpctypes.ErrFutureRev),
		expectError("unknown lease", lease, rpctypes.ErrLeaseNotFound),
		expectError("missing key", missing, rpctypes.ErrKeyNotFound),
		expect("keys", response.Count, 1),
		expect("value", string(response.Kvs[0].Value), "1"),
		expect("revision", response.Header.Revision, revision),
	)
}

func counters(e *env) error {
	const workers, rounds = 8, 40
	if _, err := e.put("n", "0"); err != nil {
		return err
	}
	increment := func() error {
		for {
			response, err := e.client.Get(e.ctx, e.key("n"))
			if err != nil {
				return err
			}
			kv := response.Kvs[0]
			value, err := strconv.Atoi(string(kv.Value))
			if err != nil {
				return err
			}
			swapped, err := e.client.Txn(e.ctx).
				If(clientv3.Compare(clientv3.ModRevision(e.key("n")), "=", kv.ModRevision)).
				Then(clientv3.OpPut(e.key("n"), strconv.Itoa(value+1))).Commit()
			if err != nil || swapped.Succeeded {
				return err
			}
		}
	}
	var group sync.WaitGroup
	failures := make([]error, workers)
	for worker := range failures {
		group.Add(1)
		go func() {
			defer group.Done()
			for round := 0; round < rounds && failures[worker] == nil; round++ {
				failures[worker] = increment()
			}
		}()
	}
	group.Wait()
	if err := errors.Join(failures...); err != nil {
		return err
	}
	response, err := e.client.Get(e.ctx, e.key("n"))
	if err != nil {
		return err
	}
	return expect("sum", string(response.Kvs[0].Value), strconv.Itoa(workers*rounds))
}
