"""What a Python program does with etcd: prints PASS or FAIL a case; exit code 1 if one fails.

    client.py 127.0.0.1:2379 127.0.0.1:2380 DIRECTORY

The first address is served in plain, the second with TLS and asks for certificates. The directory
has ca.crt, client.crt, client.key, and other.crt, an authority that signed none of them.
"""

import queue
import sys
import time
import traceback

import grpc
import pyetcd
from pyetcd import etcdrpc
from pyetcd.events import DeleteEvent, PutEvent

CALL_SECONDS = 60
PREFIX = "python/"
USERS = {"root": "secret of root", "reader": "secret of reader"}

plain_address, tls_address, directory = sys.argv[1:]


def connect(**options):
    host, port = plain_address.split(":")
    return pyetcd.client(host, int(port), timeout=CALL_SECONDS, **options)


def connect_tls(ca="ca.crt", cert="client", **options):
    host, port = tls_address.split(":")
    options["ca_cert"] = f"{directory}/{ca}"
    if cert:
        options["cert_cert"] = f"{directory}/{cert}.crt"
        options["cert_key"] = f"{directory}/{cert}.key"
    return pyetcd.client(host, int(port), timeout=CALL_SECONDS, **options)


def expect(what, found, wanted):
    assert found == wanted, f"{what}: found {found!r}, wanted {wanted!r}"


def expect_error(what, wanted, call):
    try:
        call()
    except (grpc.RpcError, pyetcd.Etcd3Exception) as error:
        code = error.code() if isinstance(error, grpc.RpcError) else type(error)
        details = error.details() if isinstance(error, grpc.RpcError) else ""
        expect(what, (code, details), wanted)
    else:
        raise AssertionError(f"{what}: no error, wanted {wanted!r}")


def keys(etcd, prefix):
    created = etcd.put(prefix + "a", "1").header.revision
    changed = etcd.put(prefix + "a", "2", prev_kv=True)
    expect("the value before", changed.prev_kv.value, b"1")
    etcd.put(prefix + "b", "3")
    value, meta = etcd.get(prefix + "a")
    expect("a", (value, meta.version, meta.create_revision), (b"2", 2, created))
    expect("an old revision", etcd.get(prefix + "a", revision=created)[0], b"1")
    expect("nothing", etcd.get(prefix + "c"), (None, None))
    found = [value for value, _ in etcd.get_prefix(prefix, sort_order="descend")]
    expect("a range", found, [b"3", b"2"])
    counted = etcd.get_prefix_response(prefix, count_only=True)
    expect("a count", (counted.count, list(counted.kvs)), (2, []))
    expect("deleted", etcd.delete(prefix + "a"), True)
    expect("deleted again", etcd.delete(prefix + "a"), False)
    expect("deleted prefix", etcd.delete_prefix(prefix).deleted, 1)


def watch(etcd, prefix):
    events, cancel = etcd.watch_prefix(prefix, prev_kv=True)
    etcd.put(prefix + "a", "1")
    etcd.put(prefix + "a", "2")
    last = etcd.delete(prefix + "a", return_response=True).header.revision
    seen = [next(events) for _ in range(3)]
    cancel()
    expect("kinds", [type(event) for event in seen], [PutEvent, PutEvent, DeleteEvent])
    expect("values", [event.value for event in seen], [b"1", b"2", b""])
    expect("values before", [event.prev_value for event in seen], [b"", b"1", b"2"])
    expect("revisions", [event.mod_revision for event in seen], [last - 2, last - 1, last])
    events, cancel = etcd.watch(prefix + "a", start_revision=last - 1)
    expect("from the past", [next(events).mod_revision for _ in range(2)], [last - 1, last])
    cancel()


def lease(etcd, prefix):
    kept = etcd.lease(60)
    etcd.put(prefix + "kept", "v", lease=kept)
    expect("keys", list(kept.keys), [(prefix + "kept").encode()])
    time.sleep(2)
    renewed = time.monotonic()
    expect("renewed", [answer.TTL for answer in kept.refresh()], [60])
    left, elapsed = kept.remaining_ttl, time.monotonic() - renewed
    assert left >= 60 - 1 - elapsed, f"{left} s are left {elapsed} s after it was renewed"
    kept.revoke()
    expect("after it was revoked", etcd.get(prefix + "kept"), (None, None))

    ended = queue.Queue()
    watcher = etcd.add_watch_callback(prefix + "short", ended.put)
    etcd.put(prefix + "short", "v", lease=etcd.lease(4))
    for kind in (PutEvent, DeleteEvent):
        expect("the lease runs out", type(ended.get(timeout=CALL_SECONDS).events[0]), kind)
    etcd.cancel_watch(watcher)


def transaction(etcd, prefix):
    t, key = etcd.transactions, prefix + "a"

    def swap(old, new):
        return etcd.transaction(
            compare=[t.value(key) == old, t.version(key) > 0],
            success=[t.put(key, new), t.get(key)],
            failure=[t.get(key)],
        )

    etcd.put(key, "1")
    succeeded, answers = swap("1", "2")
    expect("it holds", (succeeded, answers[1][0][0]), (True, b"2"))
    succeeded, answers = swap("1", "3")
    expect("it does not hold", (succeeded, answers[0][0][0]), (False, b"2"))
    expect("put if there is none", etcd.put_if_not_exists(key, "4"), False)
    expect_error(
        "a key twice",
        (grpc.StatusCode.INVALID_ARGUMENT, "etcdserver: duplicate key given in txn request"),
        lambda: etcd.transaction(compare=[], success=[t.put(key, "5")] * 2, failure=[]),
    )
    expect("in the end", etcd.get(key)[0], b"2")


def tls(_, prefix):
    with connect_tls() as etcd:
        etcd.put(prefix + "a", "1")
        expect("over TLS", etcd.get(prefix + "a")[0], b"1")
    # How a handshake fails is not told by the class of the error.
    refused = (pyetcd.exceptions.ConnectionFailedError, "")
    for what, options in [("no certificate", {"cert": None}), ("authority", {"ca": "other.crt"})]:
        with connect_tls(**options) as etcd:
            expect_error(what, refused, lambda: etcd.put(prefix + "a", "2"))
    expect("what was written", connect().get(prefix + "a")[0], b"1")


def users(etcd, prefix):
    auth = etcdrpc.AuthStub(etcd.channel)
    for name, password in USERS.items():
        auth.UserAdd(etcdrpc.AuthUserAddRequest(name=name, password=password))
    end = prefix[:-1] + chr(ord(prefix[-1]) + 1)
    reads = etcdrpc.Permission(
        permType=etcdrpc.Permission.READ, key=prefix.encode(), range_end=end.encode()
    )
    for user, role in [("root", "root"), ("reader", "readers")]:
        auth.RoleAdd(etcdrpc.AuthRoleAddRequest(name=role))
        auth.UserGrantRole(etcdrpc.AuthUserGrantRoleRequest(user=user, role=role))
    auth.RoleGrantPermission(etcdrpc.AuthRoleGrantPermissionRequest(name="readers", perm=reads))
    etcd.put(prefix + "a", "1")
    auth.AuthEnable(etcdrpc.AuthEnableRequest())

    # Over TLS: without it, this client sends no passwords' tokens.
    root = connect_tls(user="root", password=USERS["root"])
    reader = connect_tls(user="reader", password=USERS["reader"])
    denied = (grpc.StatusCode.PERMISSION_DENIED, "etcdserver: permission denied")
    expect("who may read", reader.get(prefix + "a")[0], b"1")
    expect_error("who may not write", denied, lambda: reader.put(prefix + "a", "2"))
    expect_error("another's keys", denied, lambda: reader.get("other"))
    root.put(prefix + "a", "3")
    expect("root's write", reader.get(prefix + "a")[0], b"3")
    expect_error(
        "nobody",
        (grpc.StatusCode.INVALID_ARGUMENT, "etcdserver: user name is empty"),
        lambda: etcd.get(prefix + "a"),
    )
    expect_error(
        "a wrong password",
        (
            grpc.StatusCode.INVALID_ARGUMENT,
            "etcdserver: authentication failed, invalid user ID or password",
        ),
        lambda: connect_tls(user="reader", password="wrong"),
    )
    expect_error(
        "users cannot switch it off",
        denied,
        lambda: etcdrpc.AuthStub(reader.channel).AuthDisable(
            etcdrpc.AuthDisableRequest(), metadata=reader.metadata
        ),
    )
    etcdrpc.AuthStub(root.channel).AuthDisable(
        etcdrpc.AuthDisableRequest(), metadata=root.metadata
    )
    expect("it is off", etcd.get(prefix + "a")[0], b"3")


def main():
    failed = False
    for case in [keys, watch, lease, transaction, tls, users]:
        etcd = connect()
        try:
            case(etcd, f"{PREFIX}{case.__name__}/")
            print(f"PASS {case.__name__}", flush=True)
        except Exception:
            failed = True
            print(f"FAIL {case.__name__}: {traceback.format_exc()}", flush=True)
        etcd.close()
    sys.exit(1 if failed else 0)


main()
