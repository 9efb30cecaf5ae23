// RangeStream: a range in chunks (since etcd 3.7).
package main

import (
	"errors"
	"fmt"
	"io"
	"strings"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

var streamCases = []testCase{
	{name: "a streamed range is the same as a plain one", run: streamEqualsGet},
	{name: "a streamed range comes in chunks that end with the header", run: streamChunks},
	{name: "a streamed range stays at its revision", run: streamPinned},
	{name: "a streamed range refuses what it cannot order", run: streamRefusals},
}

func streamEqualsGet(e *env) error {
	if _, err := e.fill("k", 700, strings.Repeat("v", 500)); err != nil {
		return err
	}
	middle, err := e.put("k000003", "changed")
	if err != nil {
		return err
	}
	if _, err := e.client.Delete(e.ctx, e.key("k000004")); err != nil {
		return err
	}
	all := clientv3.WithPrefix()
	for _, test := range []struct {
		what    string
		key     string
		options []clientv3.OpOption
	}{
		{"all", e.prefix, []clientv3.OpOption{all}},
		{"one", e.key("k000001"), nil},
		{"none", e.key("none"), nil},
		{"empty range", e.key("none"), []clientv3.OpOption{all}},
		{"limit", e.prefix, []clientv3.OpOption{all, clientv3.WithLimit(5)}},
		{"limit of all", e.prefix, []clientv3.OpOption{all, clientv3.WithLimit(699)}},
		{"large limit", e.prefix, []clientv3.OpOption{all, clientv3.WithLimit(300)}},
		{"past", e.prefix, []clientv3.OpOption{all, clientv3.WithRev(middle - 10)}},
		{"keys only", e.prefix, []clientv3.OpOption{all, clientv3.WithKeysOnly()}},
		{"count only", e.prefix, []clientv3.OpOption{all, clientv3.WithCountOnly()}},
		{"serializable", e.prefix, []clientv3.OpOption{all, clientv3.WithSerializable()}},
		{"ascending", e.prefix, []clientv3.OpOption{all, clientv3.WithSort(clientv3.SortByKey, clientv3.SortAscend)}},
	} {
		plain, err := e.client.Get(e.ctx, test.key, test.options...)
		if err != nil {
			return fmt.Errorf("%s: %w", test.what, err)
		}
		stream, err := e.client.GetStream(e.ctx, test.key, test.options...)
		if err != nil {
			return fmt.Errorf("%s: %w", test.what, err)
		}
		streamed, err := clientv3.GetStreamToGetResponse(stream)
		if err != nil {
			return fmt.Errorf("%s: %w", test.what, err)
		}
		if !proto.Equal((*pb.RangeResponse)(plain), (*pb.RangeResponse)(streamed)) {
			return fmt.Errorf("%s: %d keys of %d, more %v, header %v; plain %d of %d, %v, %v", test.what,
				len(streamed.Kvs), streamed.Count, streamed.More, streamed.Header,
				len(plain.Kvs), plain.Count, plain.More, plain.Header)
		}
	}
	return nil
}

func (e *env) rangeStream(request *pb.RangeRequest) (chunks []*pb.RangeResponse, err error) {
	stream, err := pb.NewKVClient(e.client.ActiveConnection()).RangeStream(e.ctx, request)
	if err != nil {
		return nil, err
	}
	for {
		response, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return chunks, nil
		}
		if err != nil {
			return chunks, err
		}
		chunks = append(chunks, response.RangeResponse)
	}
}

func (e *env) wholePrefix() *pb.RangeRequest {
	return &pb.RangeRequest{Key: []byte(e.prefix), RangeEnd: []byte(clientv3.GetPrefixRangeEnd(e.prefix))}
}

func streamChunks(e *env) error {
	if _, err := e.fill("k", 200, strings.Repeat("v", 64<<10)); err != nil {
		return err
	}
	chunks, err := e.rangeStream(e.wholePrefix())
	if err != nil {
		return err
	}
	if len(chunks) < 3 {
		return fmt.Errorf("%d chunks of 12 MiB", len(chunks))
	}
	keys := 0
	for number, chunk := range chunks {
		last := number == len(chunks)-1
		keys += len(chunk.Kvs)
		if err := errors.Join(
			expect("a header only at the end", chunk.Header != nil, last),
			expect("a count only at the end", chunk.Count != 0, last),
		); err != nil {
			return err
		}
	}
	return errors.Join(expect("keys", keys, 200), expect("count", chunks[len(chunks)-1].Count, 200))
}

func streamPinned(e *env) error {
	if _, err := e.fill("k", 200, strings.Repeat("v", 32<<10)); err != nil {
		return err
	}
	stream, err := pb.NewKVClient(e.client.ActiveConnection()).RangeStream(e.ctx, e.wholePrefix())
	if err != nil {
		return err
	}
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	if _, err := e.client.Delete(e.ctx, e.prefix, clientv3.WithPrefix()); err != nil {
		return err
	}
	keys := len(first.RangeResponse.Kvs)
	for {
		response, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return expect("keys", keys, 200)
		}
		if err != nil {
			return err
		}
		keys += len(response.RangeResponse.Kvs)
	}
}

func streamRefusals(e *env) error {
	revision, err := e.fill("k", 3, "v")
	if err != nil {
		return err
	}
	var failures []error
	for what, change := range map[string]func(*pb.RangeRequest){
		"descending": func(r *pb.RangeRequest) { r.SortOrder = pb.RangeRequest_DESCEND },
		"by value": func(r *pb.RangeRequest) {
			r.SortOrder, r.SortTarget = pb.RangeRequest_ASCEND, pb.RangeRequest_VALUE
		},
		"min mod":    func(r *pb.RangeRequest) { r.MinModRevision = 1 },
		"max mod":    func(r *pb.RangeRequest) { r.MaxModRevision = 1 },
		"min create": func(r *pb.RangeRequest) { r.MinCreateRevision = 1 },
		"max create": func(r *pb.RangeRequest) { r.MaxCreateRevision = 1 },
	} {
		request := e.wholePrefix()
		change(request)
		_, err := e.rangeStream(request)
		failures = append(failures, expect(what, status.Code(err), codes.Unimplemented))
	}
	_, noKey := e.rangeStream(&pb.RangeRequest{})
	future := e.wholePrefix()
	future.Revision = revision + 1000
	_, tooNew := e.rangeStream(future)
	failures = append(failures,
		expectError("no key", noKey, rpctypes.ErrGRPCEmptyKey),
		expectError("future", tooNew, rpctypes.ErrGRPCFutureRev),
	)
	return errors.Join(failures...)
}
