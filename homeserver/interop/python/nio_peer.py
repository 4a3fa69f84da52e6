"""Clients of matrix-nio, driven by lines of JSON on standard input:

  {"do": "login", "with": {"client": "bob", ...}}  ->  {"value": ...}  or  {"error": "..."}

"do" names a function below.
"""

import asyncio
import json
import sys
import tempfile

import nio

clients = {}
PATIENCE = 60


class Client:
    """One session, with its store of keys in a folder of its own."""

    def __init__(self, server, user):
        self.folder = tempfile.TemporaryDirectory()
        config = nio.AsyncClientConfig(encryption_enabled=True, store_sync_tokens=True)
        self.nio = nio.AsyncClient(server, user, store_path=self.folder.name, config=config)
        self.messages = []
        self.nio.add_event_callback(self.heard, nio.RoomMessageText)
        self.nio.add_event_callback(self.heard, nio.MegolmEvent)

    def heard(self, room, event):
        self.messages.append((room.room_id, event))

    async def sync(self, full_state=False):
        """What sync_forever does once."""
        checked(await self.nio.sync(timeout=1000, full_state=full_state))
        await self.nio.send_to_device_messages()
        if self.nio.should_upload_keys:
            checked(await self.nio.keys_upload())
        if self.nio.should_query_keys:
            checked(await self.nio.keys_query())
        if self.nio.should_claim_keys:
            checked(await self.nio.keys_claim(self.nio.get_users_for_key_claiming()))

    async def until(self, what, look):
        async with asyncio.timeout(PATIENCE):
            while True:
                found = look()
                if found:
                    return found
                try:
                    await self.sync()
                except TimeoutError:
                    raise TimeoutError(f"{self.nio.user_id} never saw {what}")


def checked(answer):
    if isinstance(answer, nio.ErrorResponse):
        raise RuntimeError(f"{type(answer).__name__}: {answer}")
    return answer


async def login(client, server, user, password):
    c = clients[client] = Client(server, user)
    checked(await c.nio.login(password, device_name=client))
    await c.sync(full_state=True)
    return {"user": c.nio.user_id, "device": c.nio.device_id}


async def join(client, room):
    c = clients[client]
    checked(await c.nio.join(room))
    await c.until(f"the room {room}", lambda: room in c.nio.rooms)


async def look(client, room, members):
    c = clients[client]

    def here():
        r = c.nio.rooms.get(room)
        return r if r and set(members) <= set(r.users) else None

    r = await c.until(f"{members} in {room}", here)
    return {"encrypted": r.encrypted, "name": r.display_name, "members": sorted(r.users), "synced": r.members_synced}


async def know(client, user, devices):
    """Waits until a user's devices are known; only then are they sent keys."""
    c = clients[client]
    await c.until(f"{devices} devices of {user}", lambda: len(list(c.nio.device_store.active_user_devices(user))) >= devices)


async def send(client, room, body):
    c = clients[client]
    answer = await c.nio.room_send(
        room, "m.room.message", {"msgtype": "m.text", "body": body}, ignore_unverified_devices=True)
    return checked(answer).event_id


async def read(client, room, body):
    c = clients[client]

    def seen():
        for where, event in c.messages:
            if where == room and getattr(event, "body", None) == body:
                return event
        return None

    event = await c.until(f'"{body}"', seen)
    return {"sender": event.sender, "decrypted": event.decrypted, "event": event.event_id}


async def devices(client):
    answer = checked(await clients[client].nio.devices())
    return [{"id": d.id, "name": d.display_name, "seen": d.last_seen_date is not None} for d in answer.devices]


async def rename(client, name):
    c = clients[client]
    checked(await c.nio.update_device(c.nio.device_id, {"display_name": name}))


async def drop(client, device, user, password):
    c = clients[client]
    first = await c.nio.delete_devices([device])
    auth = {"type": "m.login.password", "session": first.session, "identifier": {"type": "m.id.user", "user": user}, "password": password}
    checked(await c.nio.delete_devices([device], auth))


async def profile(client, name):
    c = clients[client]
    checked(await c.nio.set_displayname(name))
    return checked(await c.nio.get_profile()).displayname


async def history(client, room):
    answer = checked(await clients[client].nio.room_messages(room, start=None, limit=100))
    return [getattr(event, "body", None) for event in answer.chunk if isinstance(event, nio.RoomMessageText)]


async def main():
    loop = asyncio.get_running_loop()
    functions = {f.__name__: f for f in (login, join, look, know, send, read, devices, rename, drop, profile, history)}
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        request = json.loads(line)
        try:
            reply = {"value": await functions[request["do"]](**request["with"])}
        except Exception as error:  # whatever it is, it is the answer
            reply = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(reply), flush=True)
    for c in clients.values():
        await c.nio.close()


asyncio.run(main())
