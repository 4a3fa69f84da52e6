package e2ee

import (
	"errors"

	"github.com/securecomm/securecomm/homeserver/id"
)

// putBack says whether the vault is an older copy of itself that somebody put back: then there is a message of this
// device's own session, which nobody else can sign, from further on than the session is here. To go on with what the
// copy has would encrypt other messages by keys that were used already, so that all of it is given up.
func (t *txn) putBack(room id.RoomID, session string, index uint32) (bool, error) {
	o, err := load[outboundRecord](t, prefixOutbound+string(room))
	if err != nil || o == nil || o.Session.ID() != session || index < o.Session.Index() {
		return false, err
	}
	return true, errors.Join(t.dropOutbound(), t.renewOlm(), t.renewKeys())
}

// dropOutbound makes every room get a new session with the next message.
func (t *txn) dropOutbound() error {
	for _, key := range t.Keys(prefixOutbound) {
		t.Delete(key)
	}
	return nil
}

// renewOlm makes every conversation begin anew; the old sessions stay for what may still come in them.
func (t *txn) renewOlm() error {
	for _, key := range t.Keys(prefixOlm) {
		o, err := load[olmRecord](t, key)
		if err != nil {
			return err
		}
		o.Wedged, o.RetryAt = true, 0
		if err := t.save(key, o); err != nil {
			return err
		}
	}
	return nil
}

// renewKeys makes one-time and fallback keys whose private halves are here: of those on the server some may be lost.
func (t *txn) renewKeys() error {
	a, err := t.account()
	if err != nil {
		return err
	}
	a.Account.GenerateOneTimeKeys(targetKeys)
	a.Account.GenerateFallback()
	a.Fallback, a.Rotated = false, t.millis()
	return t.save(keyAccount, a)
}
