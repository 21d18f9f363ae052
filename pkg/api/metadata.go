package api

import (
	"maps"
	"strings"
	"sync"

	"github.com/keywell/keywell/pkg/scope"
)

// The limits of what callers may add to their metadata, in callers, entries of each, and bytes of a key and a value
// together.
const (
	maxMetadataApps    = 512
	maxMetadataEntries = 16
	maxMetadataBytes   = 4096
)

// description is Dapr's metadata of a runtime, as far as it concerns secrets. The JSON form is Dapr's.
type description struct {
	ID             string            `json:"id,omitempty"`
	RuntimeVersion string            `json:"runtimeVersion,omitempty"`
	Components     []componentInfo   `json:"components,omitempty"`
	Extended       map[string]string `json:"extended,omitempty"`
}

type componentInfo struct {
	Name         string   `json:"name,omitempty"`
	Type         string   `json:"type,omitempty"`
	Version      string   `json:"version,omitempty"`
	Capabilities []string `json:"capabilities,omitempty"`
}

// describe returns the description of this agent as id sees it: only stores that id may know of are in it.
func (c *core) describe(id scope.Identity) description {
	d := description{ID: id.AppID, RuntimeVersion: c.version, Extended: c.added.of(id)}
	if d.ID == "" {
		d.ID = c.appID
	}
	policy := c.policy.Policy()
	for _, s := range c.stores.Stores() {
		switch {
		case !policy.Visible(id, s.Key) || policy.Key(id, s.Key) != s.Key: // the second: another takes its name
		case s.Open:
			d.Components = append(d.Components, componentInfo{s.called(policy, id), s.Type, s.Version, s.Capabilities})
		default:
			d.Extended["keywell.closedStore."+s.called(policy, id)] = strings.ToValidUTF8(s.Reason, "\uFFFD") // may hold a path
		}
	}
	d.Extended["daprRuntimeVersion"] = c.version
	return d
}

// called returns what id calls the store.
func (s Store) called(policy *scope.Policy, id scope.Identity) string {
	if policy.Key(id, s.Name) == s.Key {
		return s.Name
	}
	return s.Key
}

// addedMetadata is what callers added to their metadata, for each app. It is safe for concurrent use.
type addedMetadata struct {
	mu    sync.Mutex
	apps  map[appKey]map[string]string
	order []appKey // in which apps came; the first gives way to a new one
}

type appKey struct{ namespace, appID string }

// of returns a copy of what the app of id added; it is never nil.
func (m *addedMetadata) of(id scope.Identity) map[string]string {
	m.mu.Lock()
	defer m.mu.Unlock()
	added := map[string]string{}
	maps.Copy(added, m.apps[appKey{id.Namespace, id.AppID}])
	return added
}

// set adds an entry for the app of id. An empty key is ignored, as in Dapr, and what is not UTF-8 is replaced, because
// gRPC could not answer with it. The error is a *fault.
func (m *addedMetadata) set(id scope.Identity, key, value string) error {
	if key == "" {
		return nil
	}
	if len(key)+len(value) > maxMetadataBytes {
		return newFault(metadataLimit, reasonLimit, "entry is too large")
	}
	key, value = strings.ToValidUTF8(key, "\uFFFD"), strings.ToValidUTF8(value, "\uFFFD")
	m.mu.Lock()
	defer m.mu.Unlock()
	app := appKey{id.Namespace, id.AppID}
	entries, ok := m.apps[app]
	if !ok {
		entries = m.admit(app)
	}
	if _, ok := entries[key]; !ok && len(entries) >= maxMetadataEntries {
		return newFault(metadataLimit, reasonLimit, "has too many entries")
	}
	entries[key] = value
	return nil
}

// admit makes room for app. m.mu is held.
func (m *addedMetadata) admit(app appKey) map[string]string {
	if m.apps == nil {
		m.apps = map[appKey]map[string]string{}
	}
	if len(m.order) == maxMetadataApps {
		delete(m.apps, m.order[0])
		m.order = m.order[1:]
	}
	m.order = append(m.order, app)
	m.apps[app] = map[string]string{}
	return m.apps[app]
}
