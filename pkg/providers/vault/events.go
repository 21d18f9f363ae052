package vault

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"time"

	"github.com/keywell/keywell/pkg/providers"
)

// eventsPath is where Vault Enterprise tells of changes in KV engines of version 2
// (https://developer.hashicorp.com/vault/docs/concepts/events). Other servers have nothing there.
const eventsPath = "sys/events/subscribe/kv-v2/*"

// askAgain is how long after a server had no events it is asked for them again: it may be upgraded, or the policy changed.
const askAgain = time.Hour

// Notify follows Vault's events where the agent itself reads a KV engine of version 2, the server has events and the
// agent's policy allows them. Elsewhere it only waits: what changes is found at the interval.
func (s *store) Notify(ctx context.Context, changed func(name string)) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go func() {
		select {
		case <-s.ended:
			cancel(errClosed)
		case <-ctx.Done():
		}
	}()
	for {
		err := s.followEvents(ctx, changed)
		if errors.Is(context.Cause(ctx), errClosed) {
			return errClosed
		}
		if ctx.Err() != nil {
			return nil
		}
		if !refused(err) {
			return err
		}
		s.log.Info("no events, changes are found at the interval", "err", err)
		select {
		case <-ctx.Done():
		case <-time.After(askAgain):
		}
	}
}

// followEvents returns why there are no events, or no more. NotFound, Denied or Invalid: there are none to be had.
func (s *store) followEvents(ctx context.Context, changed func(name string)) error {
	if s.asPod {
		return providers.Errorf(providers.NotFound, "events are followed as the agent only")
	}
	who, err := s.sessions.of(providers.Query{})
	if err != nil {
		return err
	}
	e, err := s.engineOf(ctx, who)
	if err != nil {
		return err
	}
	if e.kind != engineKV2 {
		return providers.Errorf(providers.NotFound, "the engine at %q has no events", s.enginePath)
	}
	l, err := who.current(ctx)
	if err != nil {
		return err
	}
	stream, err := s.client.upgrade(ctx, request{method: http.MethodGet, path: eventsPath, token: l.token})
	if err != nil {
		return err
	}
	defer stream.close()
	stop := context.AfterFunc(ctx, stream.close) // ends a read that waits
	defer stop()
	changed("") // whatever changed before Vault listened to us
	for {
		message, err := stream.next()
		if err != nil {
			return providers.Errorf(providers.Unavailable, "follow events: %w", err)
		}
		if name, ours := s.nameOf(message); ours {
			changed(name)
		}
	}
}

// nameOf returns the name of the secret that an event is about: empty if any may be. It reports false for what is not in
// the store.
func (s *store) nameOf(message []byte) (name string, ours bool) {
	var event struct {
		Data struct {
			Event struct {
				Metadata struct {
					Path string `json:"path"`
				} `json:"metadata"`
			} `json:"event"`
		} `json:"data"`
	}
	if json.Unmarshal(message, &event) != nil || event.Data.Event.Metadata.Path == "" {
		return "", true
	}
	rest, inMount := strings.CutPrefix(event.Data.Event.Metadata.Path, s.enginePath+"/")
	if !inMount {
		return "", false
	}
	_, rest, _ = strings.Cut(rest, "/") // data, metadata, delete, undelete, destroy
	return strings.CutPrefix(rest, s.prefix)
}
