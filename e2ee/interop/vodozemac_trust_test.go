package interop

import (
	"bytes"
	"encoding/json"
	"testing"

	"github.com/securecomm/securecomm/e2ee/attachment"
	"github.com/securecomm/securecomm/e2ee/backup"
	"github.com/securecomm/securecomm/e2ee/keyexport"
	"github.com/securecomm/securecomm/e2ee/vault"
	"github.com/securecomm/securecomm/homeserver/id"
)

// bootstrap makes the user's cross-signing identity, on our side.
func (o *our) bootstrap() {
	o.h.t.Helper()
	body, err := o.CreateCrossSigning()
	must(o.h.t, err)
	o.h.uploadCross(o.at.user, o.h.json(body))
	signatures, err := o.MarkCrossSigningUploaded()
	must(o.h.t, err)
	o.h.uploadSignatures(o.h.json(signatures))
	o.sync()
}

// bootstrap makes the user's cross-signing identity, on their side.
func (o *their) bootstrap() {
	o.h.t.Helper()
	var b struct {
		Upload, Signatures *request
		Keys               string
	}
	o.do("bootstrap", args{}, &b)
	o.carry(b.Upload)
	o.h.uploadCross(o.at.user, []byte(b.Keys))
	o.carry(b.Signatures)
	o.sync()
}

// TestVodozemacIdentities has each side read, verify and sign the other's cross-signing identity.
func TestVodozemacIdentities(t *testing.T) {
	p := startPeer(t)
	h := newHub(t)
	us, them := newOur(h, alice, "OURS"), newTheir(h, p, bob, "IDENTITY")
	us.bootstrap()
	them.bootstrap()
	us.share(1, both...)
	fromUs := us.encrypt("from us")
	them.share(100, both...)
	fromThem := them.encrypt("from them")
	us.sync()
	them.sync()
	looks(t, us, fromThem, "yellow")
	looks(t, them, fromUs, "red")

	identity, err := us.Identity(bob)
	must(t, err)
	signatures, err := us.VerifyUser(bob, identity.Fingerprint)
	must(t, err)
	h.uploadSignatures(h.json(signatures))
	looks(t, us, fromThem, "green")
	var verified request
	them.do("verifyIdentity", args{"user": alice}, &verified)
	them.carryUnnumbered("SignatureUpload", &verified)
	them.sync()
	us.sync()
	// Their machine notes with a key what it thinks of its sender, so the next key tells.
	us.share(1, both...)
	fromUs = us.encrypt("from us again")
	them.sync()
	looks(t, them, fromUs, "green")
	looks(t, us, fromThem, "green")

	// Another device of ours learns from their signature, and from nothing else, whom the user has verified.
	master, selfSigning, userSigning, err := us.ExportCrossSigning()
	must(t, err)
	second := newOur(h, alice, "SECOND")
	second.flush(both...)
	more, err := second.ImportCrossSigning(master, selfSigning, userSigning)
	must(t, err)
	h.uploadSignatures(h.json(more))
	second.sync()
	if identity, err := second.Identity(bob); err != nil || !identity.Verified {
		t.Errorf("the second device knows %+v, %v", identity, err)
	}
	them.sync()
	var state struct{ Verified, Owned bool }
	them.do("deviceState", args{"user": alice, "device": "SECOND"}, &state)
	if !state.Owned || !state.Verified {
		t.Errorf("they think %+v of the second device", state)
	}
}

// TestVodozemacOwnDevices gives one user a device of each kind: they share the identity's private keys, and a key
// of a room on request.
func TestVodozemacOwnDevices(t *testing.T) {
	p := startPeer(t)
	h := newHub(t)
	us, them := newOur(h, alice, "OURS"), newTheir(h, p, bob, "SENDER")
	us.bootstrap()
	them.share(100, both...)
	event := them.encrypt("before the others came")
	us.sync()
	reads(t, us, event, "before the others came")

	theirs := newTheir(h, p, alice, "OWN")
	theirs.do("track", args{"members": both}, nil)
	theirs.flush()
	master, selfSigning, userSigning, err := us.ExportCrossSigning()
	must(t, err)
	theirs.do("importCrossSigning", args{"master": master, "self_signing": selfSigning, "user_signing": userSigning}, nil)
	var signed request
	theirs.do("verifyOwnDevice", args{"user": alice, "device": "OWN"}, &signed)
	theirs.carryUnnumbered("SignatureUpload", &signed)
	us.sync()
	theirs.sync()
	if _, _, err := theirs.read(event); err == nil {
		t.Fatal("it reads what it has no key of")
	}
	theirs.flush() // asks
	us.sync()      // begins a session, or has one
	us.flush(alice)
	us.sync()
	theirs.sync()
	reads(t, theirs, event, "before the others came")

	last := newOur(h, alice, "LAST")
	last.flush(both...)
	signatures, err := last.ImportCrossSigning(master, selfSigning, userSigning)
	must(t, err)
	h.uploadSignatures(h.json(signatures))
	us.sync()
	theirs.sync()
	if _, _, err := last.read(event); err == nil {
		t.Fatal("it reads what it has no key of")
	}
	delete(h.inbox, us.at) // so that only theirs can answer
	last.flush()
	delete(h.inbox, us.at)
	theirs.sync()
	theirs.flush()
	last.sync()
	reads(t, last, event, "before the others came")
	looks(t, last, event, "yellow") // who gives a key could have made it up
}

// TestVodozemacSecrets has verified devices of one user give each other the private keys of the identity.
func TestVodozemacSecrets(t *testing.T) {
	p := startPeer(t)
	t.Run("they give", func(t *testing.T) {
		h := newHub(t)
		them, us := newTheir(h, p, alice, "GIVES"), newOur(h, alice, "TAKES")
		them.bootstrap()
		them.do("track", args{"members": []id.UserID{alice}}, nil)
		them.flush()
		var signed request
		them.do("verifyOwnDevice", args{"user": alice, "device": "TAKES"}, &signed)
		them.carryUnnumbered("SignatureUpload", &signed)
		them.sync()
		us.sync()
		us.sync()
		if us.HasCrossSigning() {
			t.Fatal("it has the keys before it has verified anything")
		}
		identity, err := us.Identity(alice)
		must(t, err)
		_, err = us.VerifyUser(alice, identity.Fingerprint)
		must(t, err)
		us.sync() // asks
		them.sync()
		var claim *request // they have no session with us
		them.do("missing", args{"members": []id.UserID{}}, &claim)
		them.carry(claim)
		them.sync()
		us.sync()
		if !us.HasCrossSigning() {
			t.Error("the keys did not come")
		}
	})
	t.Run("we give", func(t *testing.T) {
		h := newHub(t)
		us, them := newOur(h, alice, "GIVES"), newTheir(h, p, alice, "TAKES")
		us.bootstrap()
		us.flush(alice)
		signatures, err := us.SignDevice("TAKES", them.fingerprint())
		must(t, err)
		h.uploadSignatures(h.json(signatures))
		them.sync()
		var verified request
		them.do("verifyIdentity", args{"user": alice}, &verified)
		them.carryUnnumbered("SignatureUpload", &verified)
		them.do("requestSecrets", args{}, nil)
		them.sync()
		us.sync()
		us.sync()
		them.sync()
		master, _, _, err := us.ExportCrossSigning()
		must(t, err)
		var got struct{ Master string }
		them.do("crossSigning", args{}, &got)
		if got.Master != master {
			t.Error("the keys did not come")
		}
	})
}

func TestVodozemacExport(t *testing.T) {
	p := startPeer(t)
	h := newHub(t)
	us, them := newOur(h, alice, "OURS"), newTheir(h, p, bob, "EXPORTS")
	us.share(100, both...)
	fromUs := us.encrypt("from us")
	them.share(100, both...)
	fromThem := them.encrypt("from them")
	us.sync()
	them.sync()

	sessions, err := us.ExportRoomKeys()
	must(t, err)
	file, err := keyexport.Seal(sessions, "pass phrase")
	must(t, err)
	theirs := newTheir(h, p, alice, "IMPORTS")
	var count int
	theirs.do("importKeys", args{"file": string(file), "passphrase": "pass phrase"}, &count)
	if count != 2 {
		t.Errorf("they imported %d keys", count)
	}
	reads(t, theirs, fromUs, "from us")
	reads(t, theirs, fromThem, "from them")
	if err := theirs.try("importKeys", args{"file": string(file), "passphrase": "another"}, nil); err == nil {
		t.Error("they read it with another passphrase")
	}

	var text string
	theirs.do("exportKeys", args{"passphrase": "their phrase", "rounds": 1000}, &text)
	if sessions, err = keyexport.Open([]byte(text), "their phrase"); err != nil || len(sessions) != 2 {
		t.Fatalf("we read %d keys, %v", len(sessions), err)
	}
	ours := newOur(h, alice, "ALSO")
	if n, err := ours.ImportRoomKeys(sessions); err != nil || n != 2 {
		t.Errorf("we imported %d keys, %v", n, err)
	}
	reads(t, ours, fromUs, "from us")
	reads(t, ours, fromThem, "from them")
}

func TestVodozemacBackup(t *testing.T) {
	p := startPeer(t)
	h := newHub(t)
	us, them := newOur(h, alice, "OURS"), newTheir(h, p, bob, "BACKUP")
	us.bootstrap()
	us.share(100, both...)
	event := us.encrypt("kept")
	them.sync()
	reads(t, them, event, "kept")
	key, err := backup.NewKey()
	must(t, err)
	authData, err := us.NewBackup(key)
	must(t, err)
	must(t, us.UseBackup("1", authData, key))

	theirs := newTheir(h, p, alice, "RESTORES")
	theirs.do("track", args{"members": both}, nil)
	theirs.flush()
	master, selfSigning, userSigning, err := us.ExportCrossSigning()
	must(t, err)
	theirs.do("importCrossSigning", args{"master": master, "self_signing": selfSigning, "user_signing": userSigning}, nil)
	var trusted bool
	theirs.do("verifyBackup", args{"info": args{"algorithm": backup.Algorithm, "auth_data": authData, "version": "1", "etag": "0", "count": 0}}, &trusted)
	if !trusted {
		t.Error("they do not trust our backup")
	}
	batch, err := us.BackupNext()
	must(t, err)
	var body struct{ Rooms json.RawMessage }
	must(t, json.Unmarshal(h.json(batch), &body))
	var count int
	theirs.do("restore", args{"key": encode(key.Bytes()), "version": "1", "rooms": body.Rooms}, &count)
	if count != 1 {
		t.Errorf("they restored %d keys", count)
	}
	reads(t, theirs, event, "kept")

	var upload request
	them.do("backup", args{"key": encode(key.Bytes()), "version": "2"}, &upload)
	ours := newOur(h, bob, "ALSO")
	if n, err := ours.RestoreBackup("2", key, json.RawMessage(upload.Body)); err != nil || n != 1 {
		t.Errorf("we restored %d keys, %v", n, err)
	}
	reads(t, ours, event, "kept")

	const secret = "ÄÖÜ and some more"
	sealed, err := key.Public().Encrypt([]byte(secret))
	must(t, err)
	var text string
	p.Do("machine.pkDecrypt", args{"key": encode(key.Bytes()), "data": sealed}, &text)
	var back backup.Data
	p.Do("machine.pkEncrypt", args{"key": key.Public().String(), "text": secret}, &back)
	if got, err := key.Decrypt(back); err != nil || string(got) != secret || text != secret {
		t.Errorf("we read %q, %v, they %q", got, err, text)
	}
}

func TestVodozemacAttachment(t *testing.T) {
	p := startPeer(t)
	for _, size := range []int{0, 1, 16, 100_000} {
		plaintext := bytes.Repeat([]byte{7}, size)
		var sealed bytes.Buffer
		file, err := attachment.Encrypt(&sealed, bytes.NewReader(plaintext))
		must(t, err)
		file.URL = "mxc://one.example/file"
		var read string
		p.Do("machine.decryptFile", args{"data": encode(sealed.Bytes()), "info": file}, &read)
		if !bytes.Equal(decode(t, read), plaintext) {
			t.Errorf("they do not read %d bytes", size)
		}
		var theirs struct {
			Data string
			Info attachment.File
		}
		p.Do("machine.encryptFile", args{"data": encode(plaintext)}, &theirs)
		var got bytes.Buffer
		if err := attachment.Decrypt(&got, bytes.NewReader(decode(t, theirs.Data)), theirs.Info); err != nil || !bytes.Equal(got.Bytes(), plaintext) {
			t.Errorf("we do not read %d bytes: %v", size, err)
		}
	}
}

// TestVodozemacUnwedging loses our sessions, as if an old copy of our files had been put back: their messages can't
// be read any more, we begin anew, and they go on with the new session.
func TestVodozemacUnwedging(t *testing.T) {
	p := startPeer(t)
	h := newHub(t)
	us, them := newOur(h, alice, "OURS"), newTheir(h, p, bob, "WEDGED")
	them.share(1, both...)
	first := them.encrypt("first")
	us.sync()
	reads(t, us, first, "first")
	us.share(1, both...)
	them.sync()
	us.loseSessions()
	them.share(1, both...)
	lost := them.encrypt("lost")
	us.sync()
	if _, _, err := us.read(lost); err == nil {
		t.Fatal("it reads what it has no session for")
	}
	us.flush()
	them.sync()
	them.share(1, both...)
	found := them.encrypt("found")
	us.sync()
	reads(t, us, found, "found")
}

func (o *our) loseSessions() {
	o.h.t.Helper()
	const sessions = "e2ee/olm/"
	must(o.h.t, o.vault.Update(func(tx *vault.Tx) error {
		for _, key := range tx.Keys(sessions) {
			tx.Delete(key)
		}
		return nil
	}))
}
