// Errors, as the client maps them from codes and texts.
package main

import (
	"context"
	"errors"
	"strings"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

var errorCases = []testCase{
	{name: "bad requests get etcd's errors, code and text", run: badRequests},
	{name: "requests that are too large are refused", run: largeRequests},
	{name: "unknown methods are unimplemented", run: unknownMethods},
	{name: "a deadline is kept", run: deadlines},
	{name: "cluster and maintenance errors are etcd's", run: clusterErrors},
}

func badRequests(e *env) error {
	kv := pb.NewKVClient(e.client.ActiveConnection())
	if _, err := e.put("k", "v"); err != nil {
		return err
	}
	key := []byte(e.key("k"))
	ranged := func(request *pb.RangeRequest) error { _, err := kv.Range(e.ctx, request); return err }
	put := func(request *pb.PutRequest) error { _, err := kv.Put(e.ctx, request); return err }
	del := func(request *pb.DeleteRangeRequest) error { _, err := kv.DeleteRange(e.ctx, request); return err }
	txn := func(request *pb.TxnRequest) error { _, err := kv.Txn(e.ctx, request); return err }
	then := func(operations ...*pb.RequestOp) *pb.TxnRequest { return &pb.TxnRequest{Success: operations} }
	emptyPut := &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{}}}
	emptyRange := &pb.RequestOp{Request: &pb.RequestOp_RequestRange{RequestRange: &pb.RangeRequest{}}}
	emptyDelete := &pb.RequestOp{Request: &pb.RequestOp_RequestDeleteRange{RequestDeleteRange: &pb.DeleteRangeRequest{}}}
	return errors.Join(
		expectError("range", ranged(&pb.RangeRequest{}), rpctypes.ErrGRPCEmptyKey),
		expectError("sort order", ranged(&pb.RangeRequest{Key: key, SortOrder: 9}), rpctypes.ErrGRPCInvalidSortOption),
		expectError("sort target", ranged(&pb.RangeRequest{Key: key, SortTarget: 9}), rpctypes.ErrGRPCInvalidSortOption),
		expectError("put", put(&pb.PutRequest{}), rpctypes.ErrGRPCEmptyKey),
		expectError("value given", put(&pb.PutRequest{Key: key, IgnoreValue: true, Value: key}), rpctypes.ErrGRPCValueProvided),
		expectError("lease given", put(&pb.PutRequest{Key: key, IgnoreLease: true, Lease: 1}), rpctypes.ErrGRPCLeaseProvided),
		expectError("lease unknown", put(&pb.PutRequest{Key: key, Lease: 1}), rpctypes.ErrGRPCLeaseNotFound),
		expectError("key unknown", put(&pb.PutRequest{Key: []byte(e.key("x")), IgnoreLease: true}), rpctypes.ErrGRPCKeyNotFound),
		expectError("delete", del(&pb.DeleteRangeRequest{}), rpctypes.ErrGRPCEmptyKey),
		expectError("put in txn", txn(then(emptyPut)), rpctypes.ErrGRPCEmptyKey),
		expectError("range in txn", txn(then(emptyRange)), rpctypes.ErrGRPCEmptyKey),
		expectError("delete in txn", txn(then(emptyDelete)), rpctypes.ErrGRPCEmptyKey),
		expectError("nothing in txn", txn(then(&pb.RequestOp{})), rpctypes.ErrGRPCKeyNotFound),
		expectError("compare without key", txn(&pb.TxnRequest{Compare: []*pb.Compare{{}}}), rpctypes.ErrGRPCEmptyKey),
		expect("reverse range", del(&pb.DeleteRangeRequest{Key: key, RangeEnd: []byte("a")}), nil),
	)
}

func largeRequests(e *env) error {
	const limit = 1536 << 10
	_, fits := e.put("fits", strings.Repeat("x", limit-4096))
	_, large := e.put("large", strings.Repeat("x", limit+4096))
	_, client := e.put("client", strings.Repeat("x", 3<<20))
	kv := pb.NewKVClient(e.client.ActiveConnection())
	_, server := kv.Put(e.ctx, &pb.PutRequest{Key: []byte(e.key("server")), Value: make([]byte, 3<<20)},
		grpc.MaxCallSendMsgSize(8<<20))
	response, err := e.client.Get(e.ctx, e.prefix, clientv3.WithPrefix(), clientv3.WithCountOnly())
	if err != nil {
		return err
	}
	return errors.Join(
		expect("below the limit", fits, nil),
		expectError("above the limit", errors.Unwrap(large), rpctypes.ErrRequestTooLarge),
		expect("above the client's limit", status.Code(errors.Unwrap(client)), codes.ResourceExhausted),
		expect("above the transport's limit", status.Code(server), codes.ResourceExhausted),
		expect("keys", response.Count, 1),
	)
}

func unknownMethods(e *env) error {
	connection := e.client.ActiveConnection()
	call := func(method string) codes.Code {
		return status.Code(connection.Invoke(e.ctx, method, &pb.RangeRequest{}, &pb.RangeResponse{}))
	}
	return errors.Join(
		expect("method", call("/etcdserverpb.KV/Nonsense"), codes.Unimplemented),
		expect("service", call("/etcdserverpb.Nonsense/Put"), codes.Unimplemented),
		expect("path", call("/nonsense"), codes.Unimplemented),
	)
}

func deadlines(e *env) error {
	past, cancel := context.WithTimeout(e.ctx, time.Nanosecond)
	defer cancel()
	_, late := e.client.Get(past, e.key("k"))
	canceled, stop := context.WithCancel(e.ctx)
	stop()
	_, gone := e.client.Put(canceled, e.key("k"), "v")
	return errors.Join(
		expectError("deadline", late, context.DeadlineExceeded),
		expectError("canceled", gone, context.Canceled),
	)
}

func clusterErrors(e *env) error {
	_, remove := e.client.MemberRemove(e.ctx, 12345)
	_, update := e.client.MemberUpdate(e.ctx, 12345, []string{"http://127.0.0.1:1"})
	_, promote := e.client.MemberPromote(e.ctx, 12345)
	members, err := e.client.MemberList(e.ctx)
	if err != nil {
		return err
	}
	_, same := e.client.MemberAdd(e.ctx, members.Members[0].PeerURLs)
	_, learner := e.client.MemberPromote(e.ctx, members.Members[0].ID)
	_, transfer := e.client.MoveLeader(e.ctx, 12345)
	cluster := pb.NewClusterClient(e.client.ActiveConnection())
	_, urls := cluster.MemberAdd(e.ctx, &pb.MemberAddRequest{PeerURLs: []string{"nonsense"}})
	maintenance := pb.NewMaintenanceClient(e.client.ActiveConnection())
	_, version := maintenance.Downgrade(e.ctx, &pb.DowngradeRequest{Action: pb.DowngradeRequest_VALIDATE, Version: "x"})
	// That there is none to cancel is logged and not told.
	canceled, err := maintenance.Downgrade(e.ctx, &pb.DowngradeRequest{Action: pb.DowngradeRequest_CANCEL})
	if err != nil {
		return err
	}
	return errors.Join(
		expectError("remove", remove, rpctypes.ErrMemberNotFound),
		expectError("update", update, rpctypes.ErrMemberNotFound),
		expectError("promote", promote, rpctypes.ErrMemberNotFound),
		expectError("add the same", same, rpctypes.ErrPeerURLExist),
		expectError("promote a voter", learner, rpctypes.ErrMemberNotLearner),
		expectError("move leader", transfer, rpctypes.ErrBadLeaderTransferee),
		expectError("bad urls", urls, rpctypes.ErrGRPCMemberBadURLs),
		expectError("downgrade version", version, rpctypes.ErrGRPCWrongDowngradeVersionFormat),
		expect("downgrade cancel", canceled.Version != "", true),
	)
}
