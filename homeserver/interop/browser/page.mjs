// One client of matrix-js-sdk with its Rust crypto, as an application on top of it would use it.

import * as sdk from "matrix-js-sdk";
import { CryptoEvent, VerificationPhase, VerifierEvent } from "matrix-js-sdk/lib/crypto-api";

let client;
let password;
const requests = [];

const patience = 60_000;

// until waits for a value, looking again whenever the client hears of something.
async function until(what, look) {
  const deadline = Date.now() + patience;
  for (;;) {
    const value = await look();
    if (value) return value;
    if (Date.now() > deadline) throw new Error(`${client.getUserId()} never saw ${what}`);
    await new Promise((again) => setTimeout(again, 50));
  }
}

export async function login({ server, user, password: secret }) {
  password = secret;
  const stranger = sdk.createClient({ baseUrl: server });
  const session = await stranger.loginRequest({ type: "m.login.password", identifier: { type: "m.id.user", user }, password });
  client = sdk.createClient({
    baseUrl: server, userId: session.user_id, deviceId: session.device_id, accessToken: session.access_token,
    timelineSupport: true,
  });
  await client.initRustCrypto();
  client.on(CryptoEvent.VerificationRequestReceived, (request) => requests.push(request));
  const ready = new Promise((resolve, reject) => {
    client.on(sdk.ClientEvent.Sync, (state, _, data) => {
      if (state === "PREPARED") resolve();
      if (state === "ERROR") reject(data?.error ?? new Error("sync failed"));
    });
  });
  await client.startClient({ initialSyncLimit: 20, threadSupport: true });
  await ready;
  return { user: session.user_id, device: session.device_id };
}

export async function setUp() {
  await client.getCrypto().bootstrapCrossSigning({
    authUploadDeviceSigningKeys: (request) => request({
      type: "m.login.password", identifier: { type: "m.id.user", user: client.getUserId() }, password,
    }),
  });
  await until("its own device signed", async () =>
    (await client.getCrypto().getDeviceVerificationStatus(client.getUserId(), client.getDeviceId())).crossSigningVerified);
}

export async function create({ name, invite }) {
  const { room_id: room } = await client.createRoom({
    name, invite, preset: "private_chat",
    initial_state: [{ type: "m.room.encryption", state_key: "", content: { algorithm: "m.megolm.v1.aes-sha2" } }],
  });
  await until(`the room ${room}`, () => client.getRoom(room)?.getMyMembership() === "join");
  return room;
}

export async function join({ room, via }) {
  await client.joinRoom(room, { viaServers: via });
  await until(`the room ${room}`, () => client.getRoom(room)?.getMyMembership() === "join");
}

export async function look({ room }) {
  const seen = await until(`the room ${room}`, () => client.getRoom(room));
  return {
    encrypted: await client.getCrypto().isEncryptionEnabledInRoom(room), shown: seen.hasEncryptionStateEvent(),
    name: seen.name, members: seen.getJoinedMembers().map((m) => m.userId).sort(),
  };
}

// awaitMember waits until the client knows that somebody is in the room, or has another membership of it.
export async function awaitMember({ room, user, membership = "join" }) {
  await until(`${membership} of ${user} in ${room}`, () => client.getRoom(room)?.getMember(user)?.membership === membership);
}

export async function send({ room, body, thread }) {
  const content = { msgtype: "m.text", body };
  const { event_id: event } = await client.sendMessage(room, thread ?? null, content);
  return event;
}

// echoes sends messages one after the other and counts those that /sync showed before the request was answered.
export async function echoes({ room, count }) {
  let early = 0;
  for (let i = 0; i < count; i++) {
    let answered = false;
    const txn = client.makeTxnId();
    const shown = (event) => {
      if (event.getUnsigned().transaction_id === txn && !event.isSending() && event.status === null && !answered) early++;
    };
    client.on(sdk.ClientEvent.Event, shown);
    await client.sendEvent(room, null, "m.room.message", { msgtype: "m.text", body: `echo ${i}` }, txn);
    answered = true;
    client.off(sdk.ClientEvent.Event, shown);
  }
  return early;
}

function events(room) {
  const here = client.getRoom(room);
  return [...here.getLiveTimeline().getEvents(), ...here.getThreads().flatMap((thread) => thread.events)];
}

export async function awaitMessage({ room, body }) {
  const event = await until(`"${body}" in ${room}`, async () => {
    const found = events(room).find((e) => e.getContent().body === body);
    if (found) return found;
    for (const e of events(room)) if (e.isDecryptionFailure()) await client.decryptEventIfNeeded(e);
  });
  const info = await client.getCrypto().getEncryptionInfoForEvent(event);
  return {
    event: event.getId(), sender: event.getSender(), wire: event.getWireType(), thread: event.threadRootId ?? "",
    shield: info?.shieldColour ?? -1,
  };
}

export async function threads({ room }) {
  const here = client.getRoom(room);
  await here.createThreadsTimelineSets();
  await here.fetchRoomThreads();
  return here.getThreads().map((thread) => ({ root: thread.id, length: thread.length }));
}

export async function members({ room }) {
  await client.getRoom(room).loadMembersIfNeeded();
  return client.getRoom(room).getJoinedMembers().map((m) => m.userId).sort();
}

export async function verify({ room, user }) {
  await client.getCrypto().requestVerificationDM(user, room).then((request) => requests.push(request));
}

// emoji goes through a verification up to the emoji, which it answers; either side may have asked for it.
export async function emoji() {
  const request = await until("a verification", () => requests.find((r) => r.pending || r.phase === VerificationPhase.Started));
  if (!request.initiatedByMe && request.phase === VerificationPhase.Requested) await request.accept();
  await until("a ready verification", () => request.phase >= VerificationPhase.Ready);
  // Who asked begins; who was asked waits for it.
  const verifier = request.initiatedByMe && !request.verifier
    ? await request.startVerification("m.sas.v1")
    : await until("a begun verification", () => request.verifier);
  globalThis.sas = new Promise((resolve) => {
    const shown = verifier.getShowSasCallbacks();
    if (shown) resolve(shown);
    else verifier.on(VerifierEvent.ShowSas, resolve);
  });
  globalThis.verified = verifier.verify();
  globalThis.verified.catch(() => {}); // confirm tells of it
  const callbacks = await globalThis.sas;
  return callbacks.sas.emoji.map(([symbol, name]) => name);
}

export async function confirm() {
  await (await globalThis.sas).confirm();
  await globalThis.verified;
}

// mismatch says that the other side shows something else.
export async function mismatch() {
  (await globalThis.sas).mismatch();
  await globalThis.verified.catch(() => {});
}

// trusts says whether a user is verified; where that is expected, it waits for the signature to come back.
export async function trusts({ user, expected }) {
  const look = async () => (await client.getCrypto().getUserVerificationStatus(user)).isCrossSigningVerified();
  return expected ? until(`${user} verified`, look) : look();
}

globalThis.peer = {
  login, setUp, create, join, look, awaitMember, send, echoes, awaitMessage, threads, members, verify, emoji, confirm, mismatch, trusts,
};
