// Maintenance, health, and the recipes of the client's package concurrency.
package main

import (
	"errors"
	"fmt"
	"strconv"
	"sync"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
)

var otherCases = []testCase{
	{name: "status, members and alarms describe the server", run: describe},
	{name: "a server can be defragmented and hashed", run: maintain},
	{name: "the standard health check says serving", run: health},
	{name: "a leader can be required", run: requireLeader},
	{name: "a mutex lets one in at a time", run: mutexes},
	{name: "an election has one leader after another", run: elections},
	{name: "software transactional memory keeps a sum", run: transfers},
}

func describe(e *env) error {
	revision, err := e.put("k", "v")
	if err != nil {
		return err
	}
	before, err := e.client.Status(e.ctx, e.endpoint)
	if err != nil {
		return err
	}
	members, err := e.client.MemberList(e.ctx)
	if err != nil {
		return err
	}
	alarms, err := e.client.AlarmList(e.ctx)
	if err != nil {
		return err
	}
	member := members.Members[0]
	return errors.Join(
		expect("status: revision", before.Header.Revision, revision),
		expect("status: leader", before.Leader, before.Header.MemberId),
		expect("status: version", before.Version != "", true),
		expect("status: size", before.DbSize > 0, true),
		expect("status: size in use", before.DbSizeInUse > 0 && before.DbSizeInUse <= before.DbSize, true),
		expect("status: raft", before.RaftIndex >= before.RaftAppliedIndex && before.RaftAppliedIndex > 0, true),
		expect("status: term", before.RaftTerm, before.Header.RaftTerm),
		expect("status: learner", before.IsLearner, false),
		expect("members", len(members.Members), 1),
		expect("member: id", member.ID, members.Header.MemberId),
		expect("member: urls", len(member.PeerURLs) == 1 && len(member.ClientURLs) == 1, true),
		expect("alarms", len(alarms.Alarms), 0),
	)
}

func maintain(e *env) error {
	if _, err := e.put("k", "v"); err != nil {
		return err
	}
	if _, err := e.client.Defragment(e.ctx, e.endpoint); err != nil {
		return err
	}
	first, err := e.client.HashKV(e.ctx, e.endpoint, 0)
	if err != nil {
		return err
	}
	// At its revision: a lease of an earlier case may end meanwhile.
	second, err := e.client.HashKV(e.ctx, e.endpoint, first.HashRevision)
	if err != nil {
		return err
	}
	return expect("hash", first.Hash, second.Hash)
}

func health(e *env) error {
	client := grpc_health_v1.NewHealthClient(e.client.ActiveConnection())
	response, err := client.Check(e.ctx, &grpc_health_v1.HealthCheckRequest{})
	if err != nil {
		return err
	}
	_, unknown := client.Check(e.ctx, &grpc_health_v1.HealthCheckRequest{Service: "nonsense"})
	return errors.Join(
		expect("whole server", response.Status, grpc_health_v1.HealthCheckResponse_SERVING),
		expect("unknown service", unknown != nil, true),
	)
}

func requireLeader(e *env) error {
	_, err := e.client.Put(clientv3.WithRequireLeader(e.ctx), e.key("k"), "v")
	if err != nil {
		return err
	}
	ctx := metadata.AppendToOutgoingContext(e.ctx, "client-api-version", "3.7.1", "unknown-key", "value")
	_, err = e.client.Get(ctx, e.key("k"))
	return err
}

func mutexes(e *env) error {
	const workers, rounds = 4, 5
	inside, total := 0, 0
	work := func() error {
		session, err := concurrency.NewSession(e.client, concurrency.WithTTL(10))
		if err != nil {
			return err
		}
		defer session.Close()
		mutex := concurrency.NewMutex(session, e.key("lock"))
		for range rounds {
			if err := mutex.Lock(e.ctx); err != nil {
				return err
			}
			inside++
			total++
			if inside != 1 {
				return fmt.Errorf("%d hold the mutex", inside)
			}
			inside--
			if err := mutex.Unlock(e.ctx); err != nil {
				return err
			}
		}
		return nil
	}
	var group sync.WaitGroup
	failures := make([]error, workers)
	for worker := range workers {
		group.Add(1)
		go func() {
			defer group.Done()
			failures[worker] = work()
		}()
	}
	group.Wait()
	return errors.Join(errors.Join(failures...), expect("turns", total, workers*rounds))
}

func elections(e *env) error {
	var elected []*concurrency.Election
	for range 2 {
		session, err := concurrency.NewSession(e.client, concurrency.WithTTL(10))
		if err != nil {
			return err
		}
		defer session.Close()
		elected = append(elected, concurrency.NewElection(session, e.key("boss")))
	}
	leader := func() (string, error) {
		response, err := elected[0].Leader(e.ctx)
		if err != nil {
			return "", err
		}
		return string(response.Kvs[0].Value), nil
	}
	if err := elected[0].Campaign(e.ctx, "first"); err != nil {
		return err
	}
	first, err := leader()
	if err != nil {
		return err
	}
	won := make(chan error, 1)
	go func() { won <- elected[1].Campaign(e.ctx, "second") }()
	if err := elected[0].Proclaim(e.ctx, "still first"); err != nil {
		return err
	}
	still, err := leader()
	if err != nil {
		return err
	}
	if err := errors.Join(elected[0].Resign(e.ctx), <-won); err != nil {
		return err
	}
	second, err := leader()
	if err != nil {
		return err
	}
	return errors.Join(
		expect("leader", first, "first"),
		expect("proclaimed", still, "still first"),
		expect("after resignation", second, "second"),
	)
}

func transfers(e *env) error {
	const accounts, workers, rounds = 5, 4, 15
	name := func(number int) string { return e.key(fmt.Sprint("account", number%accounts)) }
	for number := range accounts {
		if _, err := e.client.Put(e.ctx, name(number), "100"); err != nil {
			return err
		}
	}
	transfer := func(from, to string) error {
		_, err := concurrency.NewSTM(e.client, func(stm concurrency.STM) error {
			source, err := strconv.Atoi(stm.Get(from))
			if err != nil {
				return err
			}
			target, err := strconv.Atoi(stm.Get(to))
			if err != nil {
				return err
			}
			stm.Put(from, strconv.Itoa(source-1))
			stm.Put(to, strconv.Itoa(target+1))
			return nil
		}, concurrency.WithAbortContext(e.ctx))
		return err
	}
	var group sync.WaitGroup
	failures := make([]error, workers)
	for worker := range workers {
		group.Add(1)
		go func() {
			defer group.Done()
			for round := 0; round < rounds && failures[worker] == nil; round++ {
				failures[worker] = transfer(name(worker+round), name(worker+round+1))
			}
		}()
	}
	group.Wait()
	if err := errors.Join(failures...); err != nil {
		return err
	}
	response, err := e.client.Get(e.ctx, e.prefix, clientv3.WithPrefix())
	if err != nil {
		return err
	}
	sum := 0
	for _, kv := range response.Kvs {
		value, err := strconv.Atoi(string(kv.Value))
		if err != nil {
			return err
		}
		sum += value
	}
	return expect("sum", sum, accounts*100)
}
