package account

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/securecomm/securecomm/homeserver/store"
)

// The stages of interactive authentication that this server knows (Client-Server API, "User-Interactive
// Authentication API"). Every flow has one stage, so a stage is always passed in the request that it
// authorizes, with that request's parameters.
const (
	StagePassword          = "m.login.password"
	StageDummy             = "m.login.dummy"
	StageRegistrationToken = "m.login.registration_token"
)

// Auth is what a client sends to pass a stage.
type Auth struct {
	Type       string `json:"type"`
	Session    string `json:"session"`
	Identifier struct {
		Type string `json:"type"`
		User string `json:"user"`
	} `json:"identifier"`
	User     string `json:"user"` // as clients sent it before there was an identifier
	Password string `json:"password"`
	Token    string `json:"token"`
}

// Name is the user that an Auth names.
func (a *Auth) Name() string {
	if a.Identifier.User != "" {
		return a.Identifier.User
	}
	return a.User
}

// Challenge is the error that asks a client to authenticate, or to do it better.
type Challenge struct {
	Session string
	Flows   [][]string
	Err     error // why the attempt failed; nil if there was none
}

func (c *Challenge) Error() string {
	if c.Err != nil {
		return "interactive authentication: " + c.Err.Error()
	}
	return "interactive authentication is needed"
}

func (c *Challenge) Unwrap() error { return c.Err }

var (
	errUnknownSession = errors.New("the authentication session is unknown or has expired")
	errUnknownStage   = errors.New("this is not a stage of a flow offered")
)

// Confirm makes sure that who asks for an operation knows the password of the requester. It returns a
// *Challenge if the client has to try (again).
func (s *Service) Confirm(ctx context.Context, r Requester, operation string, auth *Auth) error {
	purpose := operation + "\x00" + string(r.User)
	flows := [][]string{{StagePassword}}
	if err := s.checkStage(ctx, purpose, flows, auth); err != nil {
		return err
	}
	if name := auth.Name(); name != "" {
		user, err := s.LocalUser(name)
		if err != nil {
			return s.challenge(ctx, purpose, flows, auth, err)
		}
		// Refused before the password is looked at, so that nobody tries out another user's here.
		if user != r.User {
			return fmt.Errorf("%w: only the user who asks can authenticate", ErrForbidden)
		}
	}
	err := s.CheckPassword(ctx, r.User, auth.Password)
	if errors.Is(err, ErrBadLogin) || errors.Is(err, ErrDeactivated) {
		return s.challenge(ctx, purpose, flows, auth, err)
	}
	return err
}

// checkStage sends a challenge unless a client tries to pass a stage that is offered.
func (s *Service) checkStage(ctx context.Context, purpose string, flows [][]string, auth *Auth) error {
	if auth == nil || auth.Type == "" {
		return s.challenge(ctx, purpose, flows, auth, nil)
	}
	if auth.Session != "" {
		ok, err := s.checkTicket(ctx, "session\x00"+purpose, auth.Session)
		if err != nil {
			return err
		}
		if !ok {
			return s.challenge(ctx, purpose, flows, nil, errUnknownSession)
		}
	}
	for _, flow := range flows {
		if flow[0] == auth.Type {
			return nil
		}
	}
	return s.challenge(ctx, purpose, flows, auth, errUnknownStage)
}

// challenge asks for one of the flows, in the session that the client names if it is one.
func (s *Service) challenge(ctx context.Context, purpose string, flows [][]string, auth *Auth, reason error) error {
	purpose = "session\x00" + purpose
	if auth != nil {
		if ok, err := s.checkTicket(ctx, purpose, auth.Session); err != nil {
			return err
		} else if ok {
			return &Challenge{Session: auth.Session, Flows: flows, Err: reason}
		}
	}
	session, err := s.signTicket(ctx, purpose)
	if err != nil {
		return err
	}
	return &Challenge{Session: session, Flows: flows, Err: reason}
}

// confirmRegistration lets a registration through, or challenges. The token is that of the token stage.
func (s *Service) confirmRegistration(ctx context.Context, auth *Auth) (token []byte, err error) {
	const purpose = "register"
	flows, err := s.registrationFlows(ctx)
	if err != nil {
		return nil, err
	}
	if err := s.checkStage(ctx, purpose, flows, auth); err != nil {
		return nil, err
	}
	if auth.Type == StageDummy {
		return nil, nil
	}
	valid, err := s.RegistrationTokenValid(ctx, auth.Token)
	if err != nil {
		return nil, err
	}
	if !valid {
		return nil, s.challenge(ctx, purpose, flows, auth, errBadRegistrationToken)
	}
	return hashToken(auth.Token), nil
}

var errBadRegistrationToken = fmt.Errorf("%w: the registration token is not valid", ErrForbidden)

func (s *Service) registrationFlows(ctx context.Context) ([][]string, error) {
	withToken := []string{StageRegistrationToken}
	if s.Registration.Open && s.Registration.RequireToken {
		return [][]string{withToken}, nil
	}
	var any bool
	err := s.DB.View(ctx, func(tx *store.Tx) (err error) {
		any, err = tx.Passes.AnyRegistration(time.Now().UnixMilli())
		return err
	})
	switch {
	case err != nil:
		return nil, err
	case s.Registration.Open && any: // who has a token may become more than a user by it
		return [][]string{{StageDummy}, withToken}, nil
	case s.Registration.Open:
		return [][]string{{StageDummy}}, nil
	case any:
		return [][]string{withToken}, nil
	default:
		return nil, ErrRegistrationClosed
	}
}

// Owns says whether a user is one of this server.
func (s *Service) Owns(user id.UserID) bool { return user.Server() == s.Server }
