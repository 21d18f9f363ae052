package vault

import (
	"context"
	"net/http"
	"strings"

	"github.com/keywell/keywell/pkg/providers"
)

// engineKind says how a mount is read.
type engineKind string

const (
	engineDetected engineKind = "detect"
	engineKV1      engineKind = "kv-v1"
	engineKV2      engineKind = "kv-v2"
	engineByPath   engineKind = "path"
)

func engineKinds() []engineKind {
	return []engineKind{engineDetected, engineKV1, engineKV2, engineByPath}
}

// engine is how a mount is read.
type engine struct {
	kind    engineKind
	mounted string // what Vault calls it; empty: it was not asked
}

func (e *engine) fetch(ctx context.Context, s *store, who reader, q providers.Query) (providers.Payload, error) {
	switch e.kind {
	case engineKV1:
		return s.fetchKV1(ctx, who, q)
	case engineByPath:
		return s.fetchPath(ctx, who, q, e.mounted)
	default:
		return s.fetchKV2(ctx, who, q)
	}
}

// list returns the names below the prefix. An engine that is read by path has none that could be read without asking
// for something to be made.
func (e *engine) list(ctx context.Context, s *store, who reader) (map[string]struct{}, error) {
	switch e.kind {
	case engineKV1:
		return s.walk(ctx, who, s.enginePath+"/")
	case engineByPath:
		return nil, providers.Errorf(providers.Invalid, "the engine at %q is read by path, and can't be listed", s.enginePath)
	default:
		return s.walk(ctx, who, s.enginePath+"/metadata/")
	}
}

// engineOf returns how the mount is read: as the manifest says, or as Vault does. A caller that may not even know of
// the mount goes on as with Dapr, which knows KV version 2 only, and is refused there.
func (s *store) engineOf(ctx context.Context, who reader) (*engine, error) {
	if s.kind != engineDetected {
		return &engine{kind: s.kind}, nil
	}
	if e := s.engine.Load(); e != nil {
		return e, nil
	}
	a, _, err := who.do(ctx, request{method: http.MethodGet, path: "sys/internal/ui/mounts/" + s.enginePath})
	switch providers.KindOf(err) {
	case providers.Denied:
		return &engine{kind: engineKV2}, nil
	case providers.NotFound, providers.Invalid: // a server without this question
		s.engine.Store(&engine{kind: engineKV2})
		return s.engine.Load(), nil
	default:
		if err != nil {
			return nil, err
		}
	}
	e := &engine{kind: engineByPath, mounted: plain(a.Data["type"])}
	if e.mounted == "kv" || e.mounted == "generic" {
		e.kind = engineKV1
		if version := field(a.Data["options"], "version"); strings.HasPrefix(version, "2") {
			e.kind = engineKV2
		}
	}
	s.engine.Store(e)
	return e, nil
}
