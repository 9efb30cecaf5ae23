// What a Node program does with etcd: prints PASS or FAIL a case; exit code 1 if one fails.
//
//     node client.js 127.0.0.1:2379 127.0.0.1:2380 DIRECTORY
//
// The first address is served in plain, the second with TLS and asks for certificates. The directory
// has ca.crt, client.crt, client.key, and other.crt, an authority that signed none of them.

import assert from 'node:assert/strict';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { Etcd3, EtcdAuthenticationFailedError, EtcdPermissionDeniedError } from 'etcd3';

const CALL_MILLISECONDS = 60_000;
const PREFIX = 'node/';
const PASSWORDS = { root: 'secret of root', reader: 'secret of reader' };

const [plainAddress, tlsAddress, directory] = process.argv.slice(2);
const deadline = context =>
  context.isStream ? {} : { deadline: Date.now() + CALL_MILLISECONDS };
const open = [];

function connect(options = {}) {
  const client = new Etcd3({
    hosts: `http://${plainAddress}`,
    dialTimeout: CALL_MILLISECONDS,
    defaultCallOptions: deadline,
    ...options,
  });
  open.push(client);
  return client;
}

function connectTls(ca = 'ca.crt', pair = 'client') {
  const read = name => readFileSync(`${directory}/${name}`);
  const credentials = { rootCertificate: read(ca) };
  if (pair) {
    credentials.certChain = read(`${pair}.crt`);
    credentials.privateKey = read(`${pair}.key`);
  }
  return connect({ hosts: `https://${tlsAddress}`, credentials });
}

async function keys(etcd, prefix) {
  const created = (await etcd.put(prefix + 'a').value('1')).header.revision;
  const before = await etcd.put(prefix + 'a').value('2').getPrevious();
  assert.equal(before.value.toString(), '1');
  await etcd.put(prefix + 'b').value('3');
  const [found] = (await etcd.get(prefix + 'a').exec()).kvs;
  assert.deepEqual(
    [found.value.toString(), found.version, found.create_revision], ['2', '2', created]);
  assert.equal(await etcd.get(prefix + 'a').revision(created), '1');
  assert.equal(await etcd.get(prefix + 'c'), null);
  const all = etcd.getAll().prefix(prefix);
  assert.deepEqual(
    Object.entries(await all.sort('Key', 'Descend').strings()),
    [[prefix + 'b', '3'], [prefix + 'a', '2']]);
  assert.equal(await etcd.getAll().prefix(prefix).count(), 2);
  const remove = () => etcd.delete().key(prefix + 'a');
  assert.equal((await remove()).deleted, '1');
  assert.equal((await remove()).deleted, '0');
  assert.equal((await etcd.delete().prefix(prefix)).deleted, '1');
}

// The next `count` events of a watcher.
function take(watcher, count) {
  return new Promise((resolve, reject) => {
    const seen = [];
    watcher.on('error', reject).on('end', reject).on('data', changes => {
      seen.push(...changes.events);
      if (seen.length >= count) {
        resolve(seen);
      }
    });
  });
}

async function watch(etcd, prefix) {
  const watcher = await etcd.watch().prefix(prefix).withPreviousKV().create();
  const events = take(watcher, 3);
  await etcd.put(prefix + 'a').value('1');
  await etcd.put(prefix + 'a').value('2');
  const last = Number((await etcd.delete().key(prefix + 'a')).header.revision);
  const told = (await events).map(event => [
    event.type,
    event.kv.value.toString(),
    event.prev_kv?.value.toString(),
    Number(event.kv.mod_revision),
  ]);
  assert.deepEqual(told, [
    ['Put', '1', undefined, last - 2],
    ['Put', '2', '1', last - 1],
    ['Delete', '', '2', last],
  ]);
  await watcher.cancel();
  // The events may come with the answer to the creation.
  const past = etcd.watch().key(prefix + 'a').startRevision(String(last - 1)).watcher();
  const revisions = (await take(past, 2)).map(event => Number(event.kv.mod_revision));
  assert.deepEqual(revisions, [last - 1, last]);
  await past.cancel();
}

async function lease(etcd, prefix) {
  const kept = etcd.lease(60, { autoKeepAlive: false });
  await kept.put(prefix + 'kept').value('v').exec();
  const left = async keys => await etcd.leaseClient.leaseTimeToLive({ ID: await kept.grant(), keys });
  assert.deepEqual((await left(true)).keys.map(String), [prefix + 'kept']);
  await sleep(2_000);
  const renewed = performance.now();
  assert.equal((await kept.keepaliveOnce()).TTL, '60');
  const seconds = Number((await left(false)).TTL);
  const elapsed = (performance.now() - renewed) / 1_000;
  assert.ok(seconds >= 60 - 1 - elapsed, `${seconds} s left, ${elapsed} s after it was renewed`);
  await kept.revoke();
  assert.equal(await etcd.get(prefix + 'kept'), null);

  // By itself this client renews at once, and three times in the time of a lease.
  const renewing = etcd.lease(60);
  const [answer] = await once(renewing, 'keepaliveSucceeded');
  assert.deepEqual([answer.ID, answer.TTL], [await renewing.grant(), '60']);
  await renewing.revoke();

  const watcher = await etcd.watch().key(prefix + 'short').create();
  const events = take(watcher, 2);
  await etcd.lease(4, { autoKeepAlive: false }).put(prefix + 'short').value('v').exec();
  assert.deepEqual((await events).map(event => event.type), ['Put', 'Delete']);
  await watcher.cancel();
}

async function transaction(etcd, prefix) {
  const key = prefix + 'a';
  const swap = async (before, after) => {
    const answer = await etcd
      .if(key, 'Value', '==', before)
      .and(key, 'Version', '>', 0)
      .then(etcd.put(key).value(after), etcd.get(key))
      .else(etcd.get(key))
      .commit();
    const [found] = answer.responses.at(-1).response_range.kvs;
    return [answer.succeeded, found.value.toString()];
  };
  await etcd.put(key).value('1');
  assert.deepEqual(await swap('1', '2'), [true, '2']);
  assert.deepEqual(await swap('1', '3'), [false, '2']);
  const twice = etcd.if(key, 'Version', '>', 0).then(etcd.put(key).value('4'), etcd.put(key).value('5'));
  await assert.rejects(twice.commit(), /duplicate key given in txn request/);
  assert.equal(await etcd.get(key), '2');
}

async function tls(etcd, prefix) {
  const good = connectTls();
  await good.put(prefix + 'a').value('1');
  assert.equal(await good.get(prefix + 'a'), '1');
  for (const bad of [connectTls('ca.crt', null), connectTls('other.crt')]) {
    await assert.rejects(bad.put(prefix + 'a').value('2').exec());
  }
  assert.equal(await etcd.get(prefix + 'a'), '1');
}

async function users(etcd, prefix) {
  for (const [name, password] of Object.entries(PASSWORDS)) {
    await etcd.user(name).create(password);
  }
  await (await etcd.role('root').create()).addUser('root');
  const readers = await etcd.role('readers').create();
  await readers.grant({ permission: 'Read', range: etcd.range({ prefix }) });
  await readers.addUser('reader');
  const [granted] = await readers.permissions();
  assert.deepEqual([granted.permission, granted.range.start.toString()], ['Read', prefix]);
  await etcd.put(prefix + 'a').value('1');
  await etcd.auth.authEnable();

  const as = (username, password = PASSWORDS[username]) => connect({ auth: { username, password } });
  const [root, reader] = [as('root'), as('reader')];
  assert.equal(await reader.get(prefix + 'a'), '1');
  await assert.rejects(reader.put(prefix + 'a').value('2').exec(), EtcdPermissionDeniedError);
  await assert.rejects(reader.get('other').exec(), EtcdPermissionDeniedError);
  await root.put(prefix + 'a').value('3');
  assert.equal(await reader.get(prefix + 'a'), '3');
  await assert.rejects(etcd.get(prefix + 'a').exec(), /user name is empty/);
  const wrong = as('reader', 'wrong').get(prefix + 'a').exec();
  await assert.rejects(wrong, EtcdAuthenticationFailedError);
  await assert.rejects(reader.auth.authDisable(), EtcdPermissionDeniedError);
  await root.auth.authDisable();
  assert.equal(await etcd.get(prefix + 'a'), '3');
}

let code = 0;
for (const run of [keys, watch, lease, transaction, tls, users]) {
  try {
    await run(connect(), `${PREFIX}${run.name}/`);
    console.log(`PASS ${run.name}`);
  } catch (error) {
    code = 1;
    console.log(`FAIL ${run.name}:`, error);
  }
  open.splice(0).forEach(client => client.close());
}
process.exit(code);
