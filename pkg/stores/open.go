package stores

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"runtime/debug"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/keywell/keywell/pkg/component"
	"github.com/keywell/keywell/pkg/providers"
	"github.com/keywell/keywell/pkg/resolve"
	"github.com/keywell/keywell/pkg/secret"
)

// problem is why a store is not as wanted.
type problem struct {
	component.Problem
	passing    bool          // it may pass while the manifests stay as they are
	retryAfter time.Duration // how long the store asked to be left alone
}

// fault returns a problem of the manifest, which stays until the manifest changes.
func fault(at component.Position, field, message, remedy string) *problem {
	return &problem{Problem: component.Problem{
		Position: at, Severity: component.Error, Field: field, Message: message, Remedy: remedy,
	}}
}

// attempt is what is needed to bring a store into the wanted state, as of its start. It runs in a goroutine of its own.
type attempt struct {
	store     *store // for the goroutine only its opening
	wanted    component.Component
	inService *instance
	find      finder
}

// outcome is what an attempt brought.
type outcome struct {
	attempt
	problem  *problem
	refresh  time.Duration // how long the references are good for; zero: for ever
	opened                 // without a provider: the store is as wanted already, or there is a problem
	instance *instance     // of what was opened
	settings resolve.Settings
}

// try opens the store as its manifest says, unless it is open like that already.
func (s *Set) try(ctx context.Context, a attempt) outcome {
	o := outcome{attempt: a}
	driver, p := driverFor(a.wanted, s.drivers)
	if p != nil {
		o.problem = p
		return o
	}
	identity, p := identityOf(a.wanted, driver)
	if p != nil {
		o.problem = p
		return o
	}
	var properties providers.Properties
	if properties, o.refresh, o.problem = s.resolve(ctx, a.wanted, a.find); o.problem != nil {
		return o
	}
	if o.settings, o.problem = settingsOf(a.wanted, properties); o.problem != nil {
		return o
	}
	o.settings.PerIdentity = identity == providers.AsPod
	o.settings.PerPod = o.settings.PerIdentity && driver.PerPod
	if now := a.inService; now != nil && now.driver == driver.Type && maps.EqualFunc(now.properties, properties, secret.Value.Equal) {
		return o
	}
	cfg := providers.Config{
		Name: a.wanted.Key(), Properties: maps.Clone(properties), Written: written(a.wanted), Identity: identity, Logger: s.opts.Logger.With("store", a.wanted.Key()),
		ServiceAccounts: s.opts.ServiceAccounts,
	}
	provider, err := openProvider(ctx, driver, cfg, a.wanted.InitTimeout, a.store.opening)
	if err != nil {
		o.problem = openFailed(a.wanted, err)
		return o
	}
	o.provider = provider
	o.instance = &instance{
		driver: driver.Type, properties: properties,
		multiple: driver.MultipleKeyValues != nil && driver.MultipleKeyValues(cfg),
	}
	return o
}

// written returns how c writes the names of its properties.
func written(c component.Component) map[string]string {
	names := make(map[string]string, len(c.Metadata))
	for _, item := range c.Metadata {
		names[strings.ToLower(item.Name)] = item.Name
	}
	return names
}

// lateness is how much later than its time a driver may return before it counts as one that does not.
const lateness = 100 * time.Millisecond

// openProvider opens within timeout. As in Dapr, a driver that returns after its time has failed; one that does not
// return is left behind, and not called again before it does. opening tells.
func openProvider(ctx context.Context, driver providers.Driver, cfg providers.Config, timeout time.Duration, opening *atomic.Bool) (providers.Provider, error) {
	if !opening.CompareAndSwap(false, true) {
		return nil, providers.Errorf(providers.Unavailable, "an earlier attempt has not come back")
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	results, left := make(chan opened), make(chan struct{})
	defer close(left)
	go func() {
		o := openRecovering(ctx, driver, cfg)
		opening.Store(false)
		select {
		case results <- o:
		case <-left:
			o.discard()
		}
	}()
	var o opened
	select {
	case o = <-results:
	case <-ctx.Done():
		select {
		case o = <-results:
		case <-time.After(lateness):
		}
	}
	if ctx.Err() != nil && o.err == nil {
		o.discard()
		return nil, ctx.Err()
	}
	return o.provider, o.err
}

// opened is what a driver's Open returned.
type opened struct {
	provider providers.Provider
	err      error
}

// discard closes the provider, if there is one.
func (o opened) discard() {
	if o.provider != nil {
		_ = o.provider.Close() // it was never in service
	}
}

// openRecovering turns a panic of the driver into an error. What it panicked with may hold a secret and is not shown.
func openRecovering(ctx context.Context, driver providers.Driver, cfg providers.Config) (o opened) {
	defer func() {
		if p := recover(); p != nil {
			cfg.Logger.Error("driver panicked", "panic_type", fmt.Sprintf("%T", p), "stack", string(debug.Stack()))
			o.err = providers.Errorf(providers.Invalid, "driver panicked")
		}
	}()
	o.provider, o.err = driver.Open(ctx, cfg)
	return o
}

func openFailed(c component.Component, err error) *problem {
	p := fault(c.Position, "", fmt.Sprintf("open store %q: %v", c.Key(), err), "correct the manifest")
	switch providers.KindOf(err) {
	case providers.Invalid, providers.NotFound:
	case providers.Denied:
		p.Remedy = "correct the credentials, or the rights of their owner"
	default:
		p.passing, p.retryAfter = true, providers.RetryAfter(err)
		p.Remedy = "check that the store can be reached; it is tried again by itself"
	}
	return p
}

// driverFor returns the driver of c's type.
func driverFor(c component.Component, drivers drivers) (providers.Driver, *problem) {
	driver, ok := drivers.find(c.Type)
	if ok {
		return driver, nil
	}
	types := slices.Sorted(maps.Keys(drivers.builtin))
	remedy := "write a type that this agent has: " + strings.Join(types, ", ")
	if near, ok := component.Nearest(c.Type, types); ok {
		remedy = fmt.Sprintf("write %q", near)
	}
	return driver, fault(c.Position, "spec.type",
		fmt.Sprintf("couldn't find secret store %s/%s", c.Type, cmp.Or(c.Version, "v1")), remedy)
}
