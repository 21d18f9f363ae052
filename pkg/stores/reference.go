package stores

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/keywell/keywell/pkg/component"
	"github.com/keywell/keywell/pkg/providers"
	"github.com/keywell/keywell/pkg/resolve"
	"github.com/keywell/keywell/pkg/scope"
	"github.com/keywell/keywell/pkg/secret"
)

// fromEnv and fromStore tell where an item's value comes from, by Dapr's precedence (component.Item).
func fromEnv(i component.Item) bool   { return !i.HasValue && i.EnvRef != "" }
func fromStore(i component.Item) bool { return !fromEnv(i) && i.SecretKeyRef != nil }

// refersToAny reports whether c needs a secret of another store.
func refersToAny(c component.Component) bool { return slices.ContainsFunc(c.Metadata, fromStore) }

// refersTo reports whether c needs the given secret.
func refersTo(c component.Component, s secretName) bool {
	return c.SecretStore == s.store && slices.ContainsFunc(c.Metadata, func(i component.Item) bool {
		return fromStore(i) && (s.name == "" || s.name == i.SecretKeyRef.Name)
	})
}

// byKey returns the components by their keys. Each refers to another by that one's key.
func byKey(components []component.Component) map[string]component.Component {
	all := make(map[string]component.Component, len(components))
	for _, c := range components {
		all[c.Key()] = c
	}
	for key, c := range all {
		if own := scope.StoreKey(c.Namespace, c.SecretStore); c.Namespaced {
			if _, ok := all[own]; ok {
				c.SecretStore = own
				all[key] = c
			}
		}
	}
	return all
}

// finder returns the wanted component of a key.
type finder func(key string) (component.Component, bool)

// in returns a finder for a map that does not change.
func in(wanted map[string]component.Component) finder {
	return func(key string) (component.Component, bool) {
		c, ok := wanted[key]
		return c, ok
	}
}

// chain returns the keys of c and of the stores that must be open before it, nearest first. A component refers to one
// store at most, so there is one way; it ends where it would meet a key again.
func chain(c component.Component, find finder) []string {
	keys := []string{c.Key()}
	for refersToAny(c) {
		next, ok := find(c.SecretStore)
		if !ok || slices.Contains(keys, next.Key()) {
			return keys
		}
		keys = append(keys, next.Key())
		c = next
	}
	return keys
}

// circle returns the chain of c if its end refers to c again, or nil.
func circle(c component.Component, find finder) []string {
	keys := chain(c, find)
	last, ok := find(keys[len(keys)-1])
	if ok && refersToAny(last) && last.SecretStore == c.Key() {
		return append(keys, c.Key())
	}
	return nil
}

// checkReference finds what is wrong with c's reference to another store, without looking into that store. i is an item
// that is read from there.
func checkReference(c component.Component, i component.Item, find finder, drivers []providers.Driver) *problem {
	field := "secretKeyRef of " + i.Name
	if c.SecretStore == "" {
		return fault(i.Position, field, "does not say which store to read from", "name the store in auth.secretStore")
	}
	source, ok := find(c.SecretStore)
	if !ok {
		return fault(i.Position, field, fmt.Sprintf("store %q of auth.secretStore does not exist", c.SecretStore),
			"correct the name, or add a component for it")
	}
	if PodAuthorized(source, drivers) {
		return fault(i.Position, field,
			fmt.Sprintf("store %q of auth.secretStore is read with the rights of the pod that asks, and a component is no pod", c.SecretStore),
			"bring the credential to the agent as an environment variable (the chart's value credentials) and write envRef, or name another store in auth.secretStore")
	}
	if way := circle(c, find); way != nil {
		return fault(i.Position, field, "stores refer to each other in a circle: "+strings.Join(way, " → "),
			"give one of them its credentials in another way")
	}
	return nil
}

// resolve returns c's metadata with every reference replaced by what it refers to, and how long that is good for (zero:
// for ever). One reference that can't be resolved means that there are no properties.
func (s *Set) resolve(ctx context.Context, c component.Component, find finder) (providers.Properties, time.Duration, *problem) {
	properties := make(providers.Properties, len(c.Metadata))
	secrets := map[string]resolve.Result{} // secret name → what was read
	var refresh time.Duration
	for _, item := range c.Metadata {
		name := strings.ToLower(item.Name)
		var p *problem
		switch {
		case fromEnv(item):
			properties[name], p = s.env(item)
		case fromStore(item):
			properties[name], p = s.field(ctx, c, item, find, secrets)
		case item.HasValue:
			properties[name] = item.Value
		}
		if p != nil {
			return nil, 0, p
		}
	}
	for _, r := range secrets {
		if r.RefreshInterval > 0 && (refresh == 0 || r.RefreshInterval < refresh) {
			refresh = r.RefreshInterval
		}
	}
	return properties, refresh, nil
}

// field returns the field that item refers to.
func (s *Set) field(ctx context.Context, c component.Component, item component.Item, find finder, secrets map[string]resolve.Result) (secret.Value, *problem) {
	ref := item.SecretKeyRef
	result, read := secrets[ref.Name]
	if !read {
		var p *problem
		if result, p = s.read(ctx, c, item, find); p != nil {
			return secret.Value{}, p
		}
		secrets[ref.Name] = result
	}
	value := result.Fields[ref.Key]
	if value.Len() == 0 {
		p := fault(item.Position, "secretKeyRef of "+item.Name,
			fmt.Sprintf("secret %q of store %q has no field %q, or an empty one", ref.Name, c.SecretStore, ref.Key),
			"correct the name or key, or fill the field; it is tried again by itself")
		p.passing = true
		return secret.Value{}, p
	}
	return value, nil
}

// read reads the secret that item refers to.
func (s *Set) read(ctx context.Context, c component.Component, item component.Item, find finder) (resolve.Result, *problem) {
	if p := checkReference(c, item, find, s.opts.Drivers); p != nil {
		return resolve.Result{}, p
	}
	field := "secretKeyRef of " + item.Name
	from := scope.Store{Name: c.Name, Namespace: c.Namespace, Namespaced: c.Namespaced, Source: c.Position.String()}
	grant, err := s.opts.Policy().AuthorizeReference(from, scope.Ref{Store: c.SecretStore, Name: item.SecretKeyRef.Name})
	if err != nil {
		return resolve.Result{}, denied(c, item, err)
	}
	result, err := s.opts.Resolver.Resolve(ctx, resolve.Request{Grant: grant, Origin: "reference"})
	if err == nil {
		return result, nil
	}
	p := fault(item.Position, field, "read reference: "+err.Error(), "correct the reference")
	if errors.Is(err, resolve.ErrStoreClosed) {
		p.Message = fmt.Sprintf("store %q of auth.secretStore is not open", c.SecretStore)
		p.Remedy = "see why that store is closed"
	}
	if providers.KindOf(err) != providers.Invalid || errors.Is(err, resolve.ErrStoreClosed) {
		p.passing, p.retryAfter = true, providers.RetryAfter(err)
		p.Remedy += "; it is tried again by itself"
	}
	return resolve.Result{}, p
}

// denied explains a refusal of the policy to whoever runs the agent.
func denied(c component.Component, item component.Item, err error) *problem {
	why := fmt.Sprintf("store %q is not for components of namespace %q", c.SecretStore, c.Namespace)
	if d, ok := errors.AsType[*scope.DeniedError](err); ok {
		why = cmp.Or(d.Rule, d.Error())
	}
	return fault(item.Position, "secretKeyRef of "+item.Name, "the policy denies the reference: "+why,
		"allow it in an AccessPolicy, or refer to another secret")
}

// env returns the environment variable that item names. Dapr's rule about which may be named is kept
// (pkg/runtime/processor/secret, isEnvVarAllowed); where Dapr goes on without the property, the store stays closed.
func (s *Set) env(item component.Item) (secret.Value, *problem) {
	field := "envRef of " + item.Name
	if !s.envAllowed(item.EnvRef) {
		return secret.Value{}, fault(item.Position, field, fmt.Sprintf("environment variable %q may not be used", item.EnvRef),
			"use one that does not start with DAPR_, is not APP_API_TOKEN and, where DAPR_ENV_KEYS is set, is listed there")
	}
	value, _ := s.opts.LookupEnv(item.EnvRef)
	if value == "" {
		return secret.Value{}, fault(item.Position, field, fmt.Sprintf("environment variable %q is not set, or empty", item.EnvRef),
			"set it for the agent and restart it")
	}
	return secret.FromString(value), nil
}

func (s *Set) envAllowed(name string) bool {
	name = strings.ToUpper(name)
	if name == "APP_API_TOKEN" || strings.HasPrefix(name, "DAPR_") || strings.Contains(name, " ") {
		return false
	}
	listed, _ := s.opts.LookupEnv("DAPR_ENV_KEYS")
	return listed == "" || slices.Contains(strings.Split(listed, " "), name)
}
