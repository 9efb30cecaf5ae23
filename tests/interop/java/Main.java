// What a Java program does with etcd, by jetcd: prints PASS or FAIL a case; exit code 1 if one fails.
//
//     java -cp 'lib/*' Main.java 127.0.0.1:2379 127.0.0.1:2380 DIRECTORY
//
// The first address is served in plain, the second with TLS and asks for certificates. The directory
// has ca.crt, client.crt, client.key, and other.crt, an authority that signed none of them.

import io.etcd.jetcd.Auth;
import io.etcd.jetcd.ByteSequence;
import io.etcd.jetcd.Client;
import io.etcd.jetcd.ClientBuilder;
import io.etcd.jetcd.KV;
import io.etcd.jetcd.KeyValue;
import io.etcd.jetcd.Watch;
import io.etcd.jetcd.auth.Permission;
import io.etcd.jetcd.kv.GetResponse;
import io.etcd.jetcd.kv.TxnResponse;
import io.etcd.jetcd.lease.LeaseKeepAliveResponse;
import io.etcd.jetcd.op.Cmp;
import io.etcd.jetcd.op.CmpTarget;
import io.etcd.jetcd.op.Op;
import io.etcd.jetcd.options.DeleteOption;
import io.etcd.jetcd.options.GetOption;
import io.etcd.jetcd.options.LeaseOption;
import io.etcd.jetcd.options.OptionsUtil;
import io.etcd.jetcd.options.PutOption;
import io.etcd.jetcd.options.WatchOption;
import io.etcd.jetcd.support.CloseableClient;
import io.etcd.jetcd.watch.WatchEvent;
import io.grpc.stub.StreamObserver;
import java.io.File;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.TimeUnit;

public class Main {
  static final long CALL_SECONDS = 60;
  static final Map<String, String> PASSWORDS =
      Map.of("root", "secret of root", "reader", "secret of reader");

  static String plainAddress;
  static String tlsAddress;
  static File directory;

  interface Case {
    void run(Client etcd, String prefix) throws Exception;
  }

  static ByteSequence bytes(String text) {
    return ByteSequence.from(text, StandardCharsets.UTF_8);
  }

  static String text(ByteSequence bytes) {
    return bytes.toString(StandardCharsets.UTF_8);
  }

  static ClientBuilder plain() {
    return Client.builder().endpoints("http://" + plainAddress).retryMaxAttempts(1);
  }

  static Client tls(String authority, String pair) throws Exception {
    return Client.builder()
        .endpoints("https://" + tlsAddress)
        // A handshake that fails is an error at once.
        .waitForReady(false)
        .retryMaxAttempts(1)
        .sslContext(context -> {
          context.trustManager(new File(directory, authority));
          if (pair != null) {
            context.keyManager(new File(directory, pair + ".crt"), new File(directory, pair + ".key"));
          }
        })
        .build();
  }

  static <T> T get(CompletableFuture<T> future) throws Exception {
    return future.get(CALL_SECONDS, TimeUnit.SECONDS);
  }

  static void expect(String what, Object found, Object wanted) {
    if (!Objects.equals(found, wanted)) {
      throw new AssertionError(what + ": found " + found + ", wanted " + wanted);
    }
  }

  /** The call fails, and one of the errors behind it says so. */
  static void expectError(String what, String wanted, CompletableFuture<?> future) throws Exception {
    try {
      get(future);
    } catch (java.util.concurrent.ExecutionException error) {
      for (Throwable cause = error; cause != null; cause = cause.getCause()) {
        if (cause.getMessage() != null && cause.getMessage().contains(wanted)) {
          return;
        }
      }
      throw new AssertionError(what + ": found another error than " + wanted, error);
    }
    throw new AssertionError(what + ": no error, wanted " + wanted);
  }

  static List<String> values(GetResponse response) {
    return response.getKvs().stream().map(found -> text(found.getValue())).toList();
  }

  static void keys(Client etcd, String prefix) throws Exception {
    KV kv = etcd.getKVClient();
    ByteSequence a = bytes(prefix + "a");
    long created = get(kv.put(a, bytes("1"))).getHeader().getRevision();
    PutOption before = PutOption.builder().withPrevKV().build();
    expect("the value before", text(get(kv.put(a, bytes("2"), before)).getPrevKv().getValue()), "1");
    get(kv.put(bytes(prefix + "b"), bytes("3")));
    KeyValue found = get(kv.get(a)).getKvs().get(0);
    expect("a", text(found.getValue()), "2");
    expect("its version", found.getVersion(), 2L);
    expect("its creation", found.getCreateRevision(), created);
    GetOption then = GetOption.builder().withRevision(created).build();
    expect("an old revision", values(get(kv.get(a, then))), List.of("1"));
    expect("nothing", values(get(kv.get(bytes(prefix + "c")))), List.of());
    GetOption all = GetOption.builder().isPrefix(true)
        .withSortField(GetOption.SortTarget.KEY).withSortOrder(GetOption.SortOrder.DESCEND).build();
    expect("a range", values(get(kv.get(bytes(prefix), all))), List.of("3", "2"));
    GetOption count = GetOption.builder().isPrefix(true).withCountOnly(true).build();
    expect("a count", get(kv.get(bytes(prefix), count)).getCount(), 2L);
    expect("deleted", get(kv.delete(a)).getDeleted(), 1L);
    expect("deleted again", get(kv.delete(a)).getDeleted(), 0L);
    DeleteOption rest = DeleteOption.builder().isPrefix(true).build();
    expect("deleted prefix", get(kv.delete(bytes(prefix), rest)).getDeleted(), 1L);
  }

  /** The next events of a watcher, as words. */
  static List<String> take(BlockingQueue<WatchEvent> events, int count) throws Exception {
    List<String> seen = new ArrayList<>();
    while (seen.size() < count) {
      WatchEvent event = events.poll(CALL_SECONDS, TimeUnit.SECONDS);
      expect("an event in time, after " + seen, event != null, true);
      KeyValue now = event.getKeyValue();
      seen.add(event.getEventType() + " " + text(now.getValue()) + " "
          + text(event.getPrevKV().getValue()) + " " + now.getModRevision());
    }
    return seen;
  }

  static void watch(Client etcd, String prefix) throws Exception {
    KV kv = etcd.getKVClient();
    ByteSequence a = bytes(prefix + "a");
    BlockingQueue<WatchEvent> events = new LinkedBlockingQueue<>();
    CompletableFuture<Void> created = new CompletableFuture<>();
    WatchOption option =
        WatchOption.builder().isPrefix(true).withPrevKV(true).withCreateNotify(true).build();
    long last;
    try (Watch.Watcher watcher = etcd.getWatchClient().watch(bytes(prefix), option, response -> {
      created.complete(null);
      events.addAll(response.getEvents());
    })) {
      get(created);
      get(kv.put(a, bytes("1")));
      get(kv.put(a, bytes("2")));
      last = get(kv.delete(a)).getHeader().getRevision();
      List<String> wanted =
          List.of("PUT 1  " + (last - 2), "PUT 2 1 " + (last - 1), "DELETE  2 " + last);
      expect("events", take(events, 3), wanted);
    }
    BlockingQueue<WatchEvent> past = new LinkedBlockingQueue<>();
    WatchOption since = WatchOption.builder().withRevision(last - 1).build();
    try (Watch.Watcher watcher =
        etcd.getWatchClient().watch(a, since, response -> past.addAll(response.getEvents()))) {
      expect("from the past", take(past, 2), List.of("PUT 2  " + (last - 1), "DELETE   " + last));
    }
  }

  static void lease(Client etcd, String prefix) throws Exception {
    KV kv = etcd.getKVClient();
    long kept = get(etcd.getLeaseClient().grant(60)).getID();
    ByteSequence key = bytes(prefix + "kept");
    get(kv.put(key, bytes("v"), PutOption.builder().withLeaseId(kept).build()));
    LeaseOption withKeys = LeaseOption.builder().withAttachedKeys().build();
    expect("keys", get(etcd.getLeaseClient().timeToLive(kept, withKeys)).getKeys(), List.of(key));
    Thread.sleep(2_000);
    long renewed = System.nanoTime();
    BlockingQueue<LeaseKeepAliveResponse> answers = new LinkedBlockingQueue<>();
    try (CloseableClient renewing = etcd.getLeaseClient().keepAlive(kept, new StreamObserver<>() {
      @Override public void onNext(LeaseKeepAliveResponse answer) {
        answers.add(answer);
      }

      @Override public void onError(Throwable error) {}

      @Override public void onCompleted() {}
    })) {
      LeaseKeepAliveResponse answer = answers.poll(CALL_SECONDS, TimeUnit.SECONDS);
      expect("renewed", answer == null ? null : answer.getTTL(), 60L);
    }
    long left = get(etcd.getLeaseClient().timeToLive(kept, LeaseOption.DEFAULT)).getTTL();
    long elapsed = TimeUnit.NANOSECONDS.toSeconds(System.nanoTime() - renewed) + 1;
    expect(left + " s left, " + elapsed + " s after it was renewed", left >= 60 - 1 - elapsed, true);
    get(etcd.getLeaseClient().revoke(kept));
    expect("after it was revoked", values(get(kv.get(key))), List.of());

    ByteSequence brief = bytes(prefix + "brief");
    long ending = get(etcd.getLeaseClient().grant(4)).getID();
    long put = get(kv.put(brief, bytes("v"), PutOption.builder().withLeaseId(ending).build()))
        .getHeader().getRevision();
    BlockingQueue<WatchEvent> events = new LinkedBlockingQueue<>();
    WatchOption since = WatchOption.builder().withRevision(put + 1).build();
    try (Watch.Watcher watcher =
        etcd.getWatchClient().watch(brief, since, answer -> events.addAll(answer.getEvents()))) {
      expect("the lease runs out", take(events, 1).get(0).startsWith("DELETE"), true);
    }
  }

  static TxnResponse swap(KV kv, ByteSequence key, String before, String after) throws Exception {
    return get(kv.txn()
        .If(new Cmp(key, Cmp.Op.EQUAL, CmpTarget.value(bytes(before))),
            new Cmp(key, Cmp.Op.GREATER, CmpTarget.version(0)))
        .Then(Op.put(key, bytes(after), PutOption.DEFAULT), Op.get(key, GetOption.DEFAULT))
        .Else(Op.get(key, GetOption.DEFAULT))
        .commit());
  }

  static void transaction(Client etcd, String prefix) throws Exception {
    KV kv = etcd.getKVClient();
    ByteSequence key = bytes(prefix + "a");
    get(kv.put(key, bytes("1")));
    TxnResponse holds = swap(kv, key, "1", "2");
    expect("it holds", holds.isSucceeded(), true);
    expect("what it read", values(holds.getGetResponses().get(0)), List.of("2"));
    TxnResponse holdsNot = swap(kv, key, "1", "3");
    expect("it does not hold", holdsNot.isSucceeded(), false);
    expect("what it read", values(holdsNot.getGetResponses().get(0)), List.of("2"));
    Op.PutOp put = Op.put(key, bytes("4"), PutOption.DEFAULT);
    expectError("a key twice", "duplicate key given in txn request",
        kv.txn().Then(put, put).commit());
    expect("in the end", values(get(kv.get(key))), List.of("2"));
  }

  static void tls(Client etcd, String prefix) throws Exception {
    ByteSequence key = bytes(prefix + "a");
    try (Client good = tls("ca.crt", "client")) {
      get(good.getKVClient().put(key, bytes("1")));
      expect("over TLS", values(get(good.getKVClient().get(key))), List.of("1"));
    }
    try (Client nobody = tls("ca.crt", null); Client stranger = tls("other.crt", "client")) {
      expectError("no certificate", "UNAVAILABLE", nobody.getKVClient().put(key, bytes("2")));
      expectError("authority", "UNAVAILABLE", stranger.getKVClient().put(key, bytes("2")));
    }
    expect("what was written", values(get(etcd.getKVClient().get(key))), List.of("1"));
  }

  static Client as(String user, String password) {
    return plain().user(bytes(user)).password(bytes(password)).build();
  }

  static void users(Client etcd, String prefix) throws Exception {
    Auth auth = etcd.getAuthClient();
    for (Map.Entry<String, String> user : PASSWORDS.entrySet()) {
      get(auth.userAdd(bytes(user.getKey()), bytes(user.getValue())));
    }
    for (String[] grant : new String[][] {{"root", "root"}, {"reader", "readers"}}) {
      get(auth.roleAdd(bytes(grant[1])));
      get(auth.userGrantRole(bytes(grant[0]), bytes(grant[1])));
    }
    ByteSequence end = OptionsUtil.prefixEndOf(bytes(prefix));
    get(auth.roleGrantPermission(bytes("readers"), bytes(prefix), end, Permission.Type.READ));
    ByteSequence key = bytes(prefix + "a");
    get(etcd.getKVClient().put(key, bytes("1")));
    get(auth.authEnable());

    String denied = "etcdserver: permission denied";
    try (Client root = as("root", PASSWORDS.get("root"));
        Client reader = as("reader", PASSWORDS.get("reader"));
        Client wrong = as("reader", "wrong")) {
      KV reads = reader.getKVClient();
      expect("who may read", values(get(reads.get(key))), List.of("1"));
      expectError("who may not write", denied, reads.put(key, bytes("2")));
      expectError("another's keys", denied, reads.get(bytes("other")));
      get(root.getKVClient().put(key, bytes("3")));
      expect("root's write", values(get(reads.get(key))), List.of("3"));
      expectError("nobody", "etcdserver: user name is empty", etcd.getKVClient().get(key));
      expectError("a wrong password", "authentication failed, invalid user ID or password",
          wrong.getKVClient().get(key));
      expectError("users cannot switch it off", denied, reader.getAuthClient().authDisable());
      get(root.getAuthClient().authDisable());
    }
    expect("it is off", values(get(etcd.getKVClient().get(key))), List.of("3"));
  }

  public static void main(String[] arguments) {
    plainAddress = arguments[0];
    tlsAddress = arguments[1];
    directory = new File(arguments[2]);
    Map<String, Case> cases = new LinkedHashMap<>();
    cases.put("keys", Main::keys);
    cases.put("watch", Main::watch);
    cases.put("lease", Main::lease);
    cases.put("transaction", Main::transaction);
    cases.put("tls", Main::tls);
    cases.put("users", Main::users);
    boolean failed = false;
    for (Map.Entry<String, Case> one : cases.entrySet()) {
      try (Client etcd = plain().build()) {
        one.getValue().run(etcd, "java/" + one.getKey() + "/");
        System.out.println("PASS " + one.getKey());
      } catch (Throwable error) {
        failed = true;
        System.out.println("FAIL " + one.getKey() + ":");
        error.printStackTrace(System.out);
      }
    }
    // Threads of the client's libraries would go on.
    System.exit(failed ? 1 : 0);
  }
}
