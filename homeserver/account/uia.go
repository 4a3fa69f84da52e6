package account

import (
	"bytes"
	"context"
	"encoding/json"
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

// OperationRegister is what sessions of POST /register are good for.
const OperationRegister = "register"

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

	// Params is the request without this, which the session remembers: an object, or nothing.
	Params json.RawMessage `json:"-"`
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

// Params are the parameters of the request that a client wants to make by passing a stage: those of the request by which the
// session was begun, if they are left out now. Others than these are refused, so that nothing is done but what was asked
// for when the session was begun; only clients that begin a session without any, and those that register, who may
// have to choose another name, say them later. The error wraps ErrForbidden. User is empty where nobody is known yet.
func (s *Service) Params(ctx context.Context, user id.UserID, operation string, auth *Auth) (json.RawMessage, error) {
	if auth.Session == "" {
		return auth.Params, nil
	}
	begun, ok, err := s.recall(ctx, purposeOf(operation, user), auth.Session)
	switch {
	case err != nil:
		return nil, err
	case !ok: // which the client will be told when it is asked to begin anew
		return auth.Params, nil
	case begun.empty() || bytes.Equal(begun.digest, digestOf(auth.Params)):
		return auth.Params, nil
	case isEmpty(auth.Params) && begun.params != nil:
		return begun.params, nil
	case isEmpty(auth.Params):
		return nil, fmt.Errorf("%w: the request was too large to be remembered: repeat it with its parameters", ErrForbidden)
	case operation == OperationRegister:
		return auth.Params, nil
	}
	return nil, fmt.Errorf("%w: the session was begun for a request with other parameters", ErrForbidden)
}

// purposeOf is what a session is good for.
func purposeOf(operation string, user id.UserID) string {
	if user == "" {
		return "session\x00" + operation
	}
	return "session\x00" + operation + "\x00" + string(user)
}

// Confirm makes sure that who asks for an operation knows the password of the requester. It returns a
// *Challenge if the client has to try (again).
func (s *Service) Confirm(ctx context.Context, r Requester, operation string, auth *Auth) error {
	purpose := purposeOf(operation, r.User)
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
		_, ok, err := s.recall(ctx, purpose, auth.Session)
		if err != nil {
			return err
		}
		if !ok {
			return s.challenge(ctx, purpose, flows, &Auth{Params: auth.Params}, errUnknownSession)
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
	var params json.RawMessage
	if auth != nil {
		if _, ok, err := s.recall(ctx, purpose, auth.Session); err != nil {
			return err
		} else if ok {
			return &Challenge{Session: auth.Session, Flows: flows, Err: reason}
		}
		params = auth.Params
	}
	session, err := s.beginSession(ctx, purpose, params)
	if err != nil {
		return err
	}
	return &Challenge{Session: session, Flows: flows, Err: reason}
}

// confirmRegistration lets a registration through, or challenges. The token is that of the token stage.
func (s *Service) confirmRegistration(ctx context.Context, auth *Auth) (token []byte, err error) {
	purpose := purposeOf(OperationRegister, "")
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
