// Reads and writes of keys.
package main

import (
	"bytes"
	"errors"
	"fmt"
	"strings"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

var kvCases = []testCase{
	{name: "a key has revisions and a version that start over after deletion", run: keyLife},
	{name: "keys and values may be any bytes, in byte order", run: anyBytes},
	{name: "a range is bounded by limit, count tells all, more tells of a rest", run: rangeLimits},
	{name: "filters by revision cut what is returned and not the count", run: revisionFilters},
	{name: "sort targets and orders combine with limits", run: sorting},
	{name: "pages at one revision see no later write", run: paging},
	{name: "a past revision can be read until it is compacted", run: pastRevisions},
	{name: "prev_kv has the version before", run: previous},
	{name: "a value of one megabyte is kept, and many of them in one answer", run: bigValues},
}

func keyLife(e *env) error {
	first, err := e.put("k", "1")
	if err != nil {
		return err
	}
	second, err := e.put("k", "2")
	if err != nil {
		return err
	}
	response, err := e.client.Get(e.ctx, e.key("k"))
	if err != nil {
		return err
	}
	kv := response.Kvs[0]
	if err := errors.Join(
		expect("revisions follow each other", second, first+1),
		expect("create revision", kv.CreateRevision, first),
		expect("mod revision", kv.ModRevision, second),
		expect("version", kv.Version, 2),
		expect("header", response.Header.Revision, second),
	); err != nil {
		return err
	}
	deleted, err := e.client.Delete(e.ctx, e.key("k"))
	if err != nil {
		return err
	}
	again, err := e.client.Delete(e.ctx, e.key("k"))
	if err != nil {
		return err
	}
	third, err := e.put("k", "3")
	if err != nil {
		return err
	}
	response, err = e.client.Get(e.ctx, e.key("k"), clientv3.WithSerializable())
	if err != nil {
		return err
	}
	kv = response.Kvs[0]
	return errors.Join(
		expect("deleted", deleted.Deleted, 1),
		expect("deleted again", again.Deleted, 0),
		expect("a deletion of nothing takes no revision", again.Header.Revision, second+1),
		expect("revision after", third, second+2),
		expect("create revision after", kv.CreateRevision, third),
		expect("version after", kv.Version, 1),
	)
}

func anyBytes(e *env) error {
	for b := 0; b < 256; b++ {
		value := string([]byte{byte(b), 0, byte(255 - b)})
		if _, err := e.put(string([]byte{byte(b)}), value); err != nil {
			return err
		}
	}
	if _, err := e.put("\xff\xff", "after the last byte"); err != nil {
		return err
	}
	all, err := e.client.Get(e.ctx, e.prefix, clientv3.WithPrefix())
	if err != nil {
		return err
	}
	if err := expect("keys", len(all.Kvs), 257); err != nil {
		return err
	}
	for number, kv := range all.Kvs[:256] {
		if !bytes.Equal(kv.Key, []byte(e.prefix+string([]byte{byte(number)}))) || kv.Value[2] != byte(255-number) {
			return fmt.Errorf("key %d is %q", number, kv.Key)
		}
	}
	high, err := e.client.Get(e.ctx, e.key("\xff"), clientv3.WithPrefix())
	if err != nil {
		return err
	}
	long, err := e.client.Get(e.ctx, e.key("\xff"), clientv3.WithRange(e.key("\xff\xff")))
	if err != nil {
		return err
	}
	return errors.Join(
		expect("prefix of 0xff", high.Count, 2),
		expect("range up to 0xff 0xff", long.Count, 1),
	)
}

func rangeLimits(e *env) error {
	if _, err := e.fill("k", 10, "v"); err != nil {
		return err
	}
	for _, limit := range []int64{0, 1, 9, 10, 11} {
		response, err := e.client.Get(e.ctx, e.prefix, clientv3.WithPrefix(), clientv3.WithLimit(limit))
		if err != nil {
			return err
		}
		wanted := limit
		if limit == 0 || limit > 10 {
			wanted = 10
		}
		what := fmt.Sprintf("limit %d: ", limit)
		if err := errors.Join(
			expect(what+"keys", int64(len(response.Kvs)), wanted),
			expect(what+"count", response.Count, 10),
			expect(what+"more", response.More, wanted < 10),
		); err != nil {
			return err
		}
	}
	count, err := e.client.Get(e.ctx, e.prefix, clientv3.WithPrefix(), clientv3.WithCountOnly(), clientv3.WithLimit(3))
	if err != nil {
		return err
	}
	keys, err := e.client.Get(e.ctx, e.prefix, clientv3.WithPrefix(), clientv3.WithKeysOnly())
	if err != nil {
		return err
	}
	return errors.Join(
		expect("count only: count", count.Count, 10),
		expect("count only: keys", len(count.Kvs), 0),
		expect("count only: more", count.More, false),
		expect("keys only: keys", len(keys.Kvs), 10),
		expect("keys only: value", len(keys.Kvs[3].Value), 0),
		expect("keys only: version", keys.Kvs[3].Version, 1),
	)
}

func revisionFilters(e *env) error {
	last, err := e.fill("k", 6, "v")
	if err != nil {
		return err
	}
	changed, err := e.put("k000000", "changed")
	if err != nil {
		return err
	}
	for _, test := range []struct {
		what    string
		options []clientv3.OpOption
		keys    int
		more    bool
	}{
		{"min mod", []clientv3.OpOption{clientv3.WithMinModRev(last)}, 2, false},
		{"max mod", []clientv3.OpOption{clientv3.WithMaxModRev(last - 1)}, 4, false},
		{"min and max mod", []clientv3.OpOption{clientv3.WithMinModRev(last - 2), clientv3.WithMaxModRev(last)}, 3, false},
		{"min create", []clientv3.OpOption{clientv3.WithMinCreateRev(last - 1)}, 2, false},
		{"max create", []clientv3.OpOption{clientv3.WithMaxCreateRev(last - 5)}, 1, false},
		{"nothing", []clientv3.OpOption{clientv3.WithMinModRev(changed + 1)}, 0, false},
		{"with a limit", []clientv3.OpOption{clientv3.WithMaxModRev(last), clientv3.WithLimit(2)}, 2, true},
		{"with a limit that suffices", []clientv3.OpOption{clientv3.WithMaxModRev(last), clientv3.WithLimit(5)}, 5, false},
	} {
		response, err := e.client.Get(e.ctx, e.prefix, append(test.options, clientv3.WithPrefix())...)
		if err != nil {
			return fmt.Errorf("%s: %w", test.what, err)
		}
		if err := errors.Join(
			expect(test.what+": keys", len(response.Kvs), test.keys),
			expect(test.what+": count", response.Count, 6),
			expect(test.what+": more", response.More, test.more),
		); err != nil {
			return err
		}
	}
	return nil
}

func sorting(e *env) error {
	for _, pair := range []string{"a=3", "b=1", "c=2", "a=9", "b=8", "a=7"} {
		name, value, _ := strings.Cut(pair, "=")
		if _, err := e.put(name, value); err != nil {
			return err
		}
	}
	for _, test := range []struct {
		target clientv3.SortTarget
		order  clientv3.SortOrder
		wanted string
	}{
		{clientv3.SortByKey, clientv3.SortAscend, "abc"},
		{clientv3.SortByKey, clientv3.SortDescend, "cba"},
		{clientv3.SortByVersion, clientv3.SortAscend, "cba"},
		{clientv3.SortByVersion, clientv3.SortDescend, "abc"},
		{clientv3.SortByCreateRevision, clientv3.SortDescend, "cba"},
		{clientv3.SortByModRevision, clientv3.SortAscend, "cba"},
		{clientv3.SortByModRevision, clientv3.SortNone, "cba"},
		{clientv3.SortByValue, clientv3.SortAscend, "cab"},
		{clientv3.SortByValue, clientv3.SortDescend, "bac"},
	} {
		for limit := 1; limit <= 3; limit++ {
			if test.order == clientv3.SortNone && limit < 3 {
				// Without an order the limit is applied first; what is left is then sorted.
				continue
			}
			response, err := e.client.Get(e.ctx, e.prefix, clientv3.WithPrefix(),
				clientv3.WithSort(test.target, test.order), clientv3.WithLimit(int64(limit)))
			if err != nil {
				return err
			}
			found := ""
			for _, kv := range response.Kvs {
				found += strings.TrimPrefix(string(kv.Key), e.prefix)
			}
			what := fmt.Sprintf("target %v, order %v, limit %d", test.target, test.order, limit)
			if err := expect(what, found, test.wanted[:limit]); err != nil {
				return err
			}
		}
	}
	return nil
}

func paging(e *env) error {
	const count, page = 250, 40
	if _, err := e.fill("k", count, "before"); err != nil {
		return err
	}
	end := clientv3.GetPrefixRangeEnd(e.prefix)
	var revision int64
	seen, from := 0, e.prefix
	for {
		response, err := e.client.Get(e.ctx, from, clientv3.WithRange(end), clientv3.WithLimit(page), clientv3.WithRev(revision))
		if err != nil {
			return err
		}
		if revision == 0 {
			revision = response.Header.Revision
			// Later than the first page: none of this may show.
			if _, err := e.client.Delete(e.ctx, e.key("k000200"), clientv3.WithRange(end)); err != nil {
				return err
			}
			if _, err := e.put("k000100", "after"); err != nil {
				return err
			}
			if _, err := e.put("k0000905", "new"); err != nil {
				return err
			}
		}
		if err := expect("count from here", response.Count, int64(count-seen)); err != nil {
			return err
		}
		for _, kv := range response.Kvs {
			if err := errors.Join(
				expect("key", string(kv.Key), e.key(fmt.Sprintf("k%06d", seen))),
				expect("value", string(kv.Value), "before"),
			); err != nil {
				return err
			}
			seen++
		}
		if !response.More {
			return expect("keys in all pages", seen, count)
		}
		from = string(response.Kvs[len(response.Kvs)-1].Key) + "\x00"
	}
}

func pastRevisions(e *env) error {
	var revisions []int64
	for number := 0; number < 5; number++ {
		revision, err := e.put("k", fmt.Sprint(number))
		if err != nil {
			return err
		}
		revisions = append(revisions, revision)
	}
	for number, revision := range revisions {
		response, err := e.client.Get(e.ctx, e.key("k"), clientv3.WithRev(revision))
		if err != nil {
			return err
		}
		if err := errors.Join(
			expect("value", string(response.Kvs[0].Value), fmt.Sprint(number)),
			expect("the header has the present revision", response.Header.Revision, revisions[4]),
		); err != nil {
			return err
		}
	}
	if _, err := e.client.Compact(e.ctx, revisions[2], clientv3.WithCompactPhysical()); err != nil {
		return err
	}
	_, before := e.client.Get(e.ctx, e.key("k"), clientv3.WithRev(revisions[1]))
	at, err := e.client.Get(e.ctx, e.key("k"), clientv3.WithRev(revisions[2]))
	if err != nil {
		return err
	}
	_, future := e.client.Get(e.ctx, e.key("k"), clientv3.WithRev(revisions[4]+1000))
	_, again := e.client.Compact(e.ctx, revisions[2])
	_, ahead := e.client.Compact(e.ctx, revisions[4]+1000)
	return errors.Join(
		expectError("before the compacted revision", before, rpctypes.ErrCompacted),
		expect("at the compacted revision", string(at.Kvs[0].Value), "2"),
		expectError("in the future", future, rpctypes.ErrFutureRev),
		expectError("compacted again", again, rpctypes.ErrCompacted),
		expectError("compacted ahead", ahead, rpctypes.ErrFutureRev),
	)
}

func previous(e *env) error {
	none, err := e.client.Put(e.ctx, e.key("k"), "1", clientv3.WithPrevKV())
	if err != nil {
		return err
	}
	one, err := e.client.Put(e.ctx, e.key("k"), "2", clientv3.WithPrevKV())
	if err != nil {
		return err
	}
	if _, err := e.put("l", "3"); err != nil {
		return err
	}
	deleted, err := e.client.Delete(e.ctx, e.prefix, clientv3.WithPrefix(), clientv3.WithPrevKV())
	if err != nil {
		return err
	}
	return errors.Join(
		expect("no version before", none.PrevKv == nil, true),
		expect("value before", string(one.PrevKv.Value), "1"),
		expect("deleted", deleted.Deleted, 2),
		expect("first deleted", string(deleted.PrevKvs[0].Value), "2"),
		expect("second deleted", string(deleted.PrevKvs[1].Value), "3"),
	)
}

func bigValues(e *env) error {
	const size, count = 1 << 20, 8
	for number := 0; number < count; number++ {
		if _, err := e.put(fmt.Sprint(number), strings.Repeat(fmt.Sprint(number), size)); err != nil {
			return err
		}
	}
	response, err := e.client.Get(e.ctx, e.prefix, clientv3.WithPrefix())
	if err != nil {
		return err
	}
	for number, kv := range response.Kvs {
		if string(kv.Value) != strings.Repeat(fmt.Sprint(number), size) {
			return fmt.Errorf("value %d has changed, %d bytes", number, len(kv.Value))
		}
	}
	return expect("values", len(response.Kvs), count)
}
