// The OlmMachine of matrix-sdk-crypto, which has vodozemac for its ratchets. Machines have the names that
// the tests give them. Requests leave as {id, type, body}, where body is the text of the HTTP request's body.

import * as sdk from "@matrix-org/matrix-sdk-crypto-wasm";

await sdk.initAsync();

const machines = new Map();
// Each call consumes its settings.
const anyone = () => new sdk.DecryptionSettings(sdk.TrustRequirement.Untrusted);

const users = (names) => names.map((name) => new sdk.UserId(name));
const device = (m, user, name) => m.getDevice(new sdk.UserId(user), new sdk.DeviceId(name));
const identity = (m, user) => m.getIdentity(new sdk.UserId(user));
const color = (shield) => ["red", "grey", "none"][shield.color];

function request(r) {
  if (!r) return null;
  return { id: r.id, type: r.type === undefined ? "" : sdk.RequestType[r.type], body: r.body, event: r.event_type, txn: r.txn_id };
}

export async function open({ machine, user, device }) {
  const m = await sdk.OlmMachine.initialize(new sdk.UserId(user), new sdk.DeviceId(device));
  machines.set(machine, m);
  return { curve25519: m.identityKeys.curve25519.toBase64(), ed25519: m.identityKeys.ed25519.toBase64() };
}

export async function sync({ machine, events, changed, left, counts, fallback }) {
  const processed = await machines.get(machine).receiveSyncChanges(
    JSON.stringify(events), new sdk.DeviceLists(users(changed), users(left)),
    new Map(Object.entries(counts)), fallback && new Set(fallback), anyone());
  return processed.map((e) => ({ kind: sdk.ProcessedToDeviceEventType[e.type], event: JSON.parse(e.rawEvent) }));
}

export async function outgoing({ machine }) {
  return (await machines.get(machine).outgoingRequests()).map(request);
}

export function sent({ machine, id, type, answer }) {
  return machines.get(machine).markRequestAsSent(id, sdk.RequestType[type], answer);
}

export function track({ machine, members }) {
  return machines.get(machine).updateTrackedUsers(users(members));
}

export async function missing({ machine, members }) {
  return request(await machines.get(machine).getMissingSessions(users(members)));
}

export async function share({ machine, room, members, messages }) {
  const settings = new sdk.EncryptionSettings();
  settings.rotationPeriodMessages = BigInt(messages);
  const requests = await machines.get(machine).shareRoomKey(new sdk.RoomId(room), users(members), settings);
  return requests.map(request);
}

export async function encrypt({ machine, room, type, content }) {
  return JSON.parse(await machines.get(machine).encryptRoomEvent(new sdk.RoomId(room), type, JSON.stringify(content)));
}

export async function decrypt({ machine, room, event }) {
  const got = await machines.get(machine).decryptRoomEvent(JSON.stringify(event), new sdk.RoomId(room), anyone());
  return { event: JSON.parse(got.event), device: got.senderDevice?.toString(), shield: color(got.shieldState(true)) };
}

// seal encrypts a to-device event for one device by itself.
export async function seal({ machine, user, device: name, type, content }) {
  const to = await device(machines.get(machine), user, name);
  return JSON.parse(await to.encryptToDeviceEvent(type, content, sdk.CollectStrategy.allDevices()));
}

export async function trustDevice({ machine, user, device: name }) {
  await (await device(machines.get(machine), user, name)).setLocalTrust(sdk.LocalTrust.Verified);
}

export async function blockDevice({ machine, user, device: name }) {
  await (await device(machines.get(machine), user, name)).setLocalTrust(sdk.LocalTrust.BlackListed);
}

export async function deviceState({ machine, user, device: name }) {
  const d = await device(machines.get(machine), user, name);
  return d && { verified: d.isVerified(), owned: d.isCrossSignedByOwner() };
}

export async function bootstrap({ machine }) {
  const b = await machines.get(machine).bootstrapCrossSigning(true);
  return { upload: request(b.uploadKeysRequest), keys: b.uploadSigningKeysRequest.body, signatures: request(b.uploadSignaturesRequest) };
}

export async function crossSigning({ machine }) {
  const keys = await machines.get(machine).exportCrossSigningKeys();
  return { master: keys.masterKey, self_signing: keys.self_signing_key, user_signing: keys.userSigningKey };
}

export function requestSecrets({ machine }) {
  return machines.get(machine).requestMissingSecretsIfNeeded();
}

export async function importCrossSigning({ machine, master, self_signing, user_signing }) {
  const status = await machines.get(machine).importCrossSigningKeys(master, self_signing, user_signing);
  if (!status.hasMaster || !status.hasSelfSigning || !status.hasUserSigning) throw new Error("a key was not taken");
}

export async function identityState({ machine, user }) {
  const i = await identity(machines.get(machine), user);
  return i && { master: i.masterKey, verified: i.isVerified() };
}

export async function verifyIdentity({ machine, user }) {
  return request(await (await identity(machines.get(machine), user)).verify());
}

export async function verifyOwnDevice({ machine, user, device: name }) {
  return request(await (await device(machines.get(machine), user, name)).verify());
}

export async function exportKeys({ machine, passphrase, rounds }) {
  const plain = await machines.get(machine).exportRoomKeys(() => true);
  return sdk.OlmMachine.encryptExportedRoomKeys(plain, passphrase, rounds);
}

export async function importKeys({ machine, file, passphrase }) {
  const plain = sdk.OlmMachine.decryptExportedRoomKeys(file, passphrase);
  const result = await machines.get(machine).importExportedRoomKeys(plain, () => {});
  return result.importedCount;
}

export async function verifyBackup({ machine, info }) {
  return (await machines.get(machine).verifyBackup(info)).trusted();
}

export async function backup({ machine, key, version }) {
  const m = machines.get(machine);
  await m.enableBackupV1(sdk.BackupDecryptionKey.fromBase64(key).megolmV1PublicKey.publicKeyBase64, version);
  return request(await m.backupRoomKeys());
}

// restore reads the body of an answer to GET /room_keys/keys.
export async function restore({ machine, key, version, rooms }) {
  const secret = sdk.BackupDecryptionKey.fromBase64(key);
  const keys = new Map();
  for (const [room, { sessions }] of Object.entries(rooms)) {
    const found = new Map();
    for (const [session, { session_data: d }] of Object.entries(sessions)) {
      found.set(session, JSON.parse(secret.decryptV1(d.ephemeral, d.mac, d.ciphertext)));
    }
    keys.set(new sdk.RoomId(room), found);
  }
  return (await machines.get(machine).importBackedUpRoomKeys(keys, () => {}, version)).importedCount;
}

export function pkDecrypt({ key, data }) {
  return sdk.BackupDecryptionKey.fromBase64(key).decryptV1(data.ephemeral, data.mac, data.ciphertext);
}

export function pkEncrypt({ key, text }) {
  const sealed = sdk.PkEncryption.fromKey(new sdk.Curve25519PublicKey(key)).encryptString(text).toBase64();
  return { ephemeral: sealed.ephemeralKey, ciphertext: sealed.ciphertext, mac: sealed.mac };
}

export function encryptFile({ data }) {
  const sealed = sdk.Attachment.encrypt(new Uint8Array(Buffer.from(data, "base64")));
  return { data: Buffer.from(sealed.encryptedData).toString("base64"), info: JSON.parse(sealed.mediaEncryptionInfo) };
}

export function decryptFile({ data, info }) {
  const sealed = new sdk.EncryptedAttachment(new Uint8Array(Buffer.from(data, "base64")), JSON.stringify(info));
  return Buffer.from(sdk.Attachment.decrypt(sealed)).toString("base64");
}

// What follows is the verification by a short text. A flow is a transaction's ID.

const sas = [sdk.VerificationMethod.SasV1];
const flowOf = (m, user, flow) => m.getVerification(new sdk.UserId(user), flow);

export async function requestVerification({ machine, user, device: name }) {
  const [verification, message] = (await device(machines.get(machine), user, name)).requestVerification(sas);
  return { flow: verification.flowId, request: request(message) };
}

export function acceptVerification({ machine, user, flow }) {
  return request(machines.get(machine).getVerificationRequest(new sdk.UserId(user), flow).acceptWithMethods(sas));
}

export function acceptSas({ machine, user, flow }) {
  return request(flowOf(machines.get(machine), user, flow).accept());
}

export function sasState({ machine, user, flow }) {
  const s = flowOf(machines.get(machine), user, flow);
  return s && {
    presentable: s.canBePresented(), decimals: s.decimals() && [...s.decimals()], emoji: s.emoji()?.map((e) => e.symbol),
    cancelled: s.cancelInfo()?.cancelCode() ?? "",
  };
}

export async function confirmSas({ machine, user, flow }) {
  return (await flowOf(machines.get(machine), user, flow).confirm()).map(request);
}

export function cancelSas({ machine, user, flow, code }) {
  return request(flowOf(machines.get(machine), user, flow).cancelWithCode(code));
}
