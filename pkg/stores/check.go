package stores

import (
	"fmt"
	"slices"
	"strings"

	"github.com/keywell/keywell/pkg/component"
	"github.com/keywell/keywell/pkg/providers"
	"github.com/keywell/keywell/pkg/resolve"
)

// Check returns what Set would refuse (errors) and what looks like a mistake (warnings), in the order of the
// components. It reads no environment variable and no secret, and does no I/O.
func Check(components []component.Component, drivers []providers.Driver) []component.Problem {
	known := builtinOnly(drivers)
	wanted := byKey(components)
	find := in(wanted)
	var problems []component.Problem
	for _, c := range components {
		c = wanted[c.Key()]
		driver, p := driverFor(c, known)
		if p != nil {
			problems = append(problems, p.Problem)
		} else {
			problems = append(problems, checkProperties(c, driver)...)
			if _, p := identityOf(c, driver); p != nil {
				problems = append(problems, p.Problem)
			}
		}
		problems = append(problems, checkSettings(c)...)
		if i := slices.IndexFunc(c.Metadata, fromStore); i >= 0 {
			if p := checkReference(c, c.Metadata[i], find, drivers); p != nil {
				problems = append(problems, p.Problem)
			}
		}
	}
	return problems
}

// checkProperties compares what c writes with what its driver knows.
func checkProperties(c component.Component, driver providers.Driver) []component.Problem {
	var problems []component.Problem
	names := knownNames(driver)
	for _, item := range c.Metadata {
		property, ok := propertyOf(driver, item.Name)
		switch {
		case !ok && driver.AnyProperties:
		case !ok && !slices.ContainsFunc(names, func(n string) bool { return strings.EqualFold(n, item.Name) }):
			problems = append(problems, warning(item, fmt.Sprintf("%q is not known to %s and ignored", item.Name, c.Type),
				nearestRemedy(item.Name, names)))
		case ok && property.Secret && item.Value.Len() > 0 && !fromStore(item):
			problems = append(problems, warning(item, fmt.Sprintf("%q is a credential, written in plain", item.Name),
				"keep it in a store and write a secretKeyRef, or use envRef"))
		}
	}
	for _, property := range driver.Properties {
		if property.Required && !isSet(c, driver, property) {
			problems = append(problems, fault(c.Position, "spec.metadata", fmt.Sprintf("%q is required by %s", property.Name, c.Type),
				"add it").Problem)
		}
	}
	return problems
}

// checkSettings checks the settings that are written in the manifest itself.
func checkSettings(c component.Component) []component.Problem {
	var problems []component.Problem
	var scratch resolve.Settings
	for _, st := range settings() {
		for _, item := range c.Metadata {
			if !strings.EqualFold(item.Name, st.name) || fromStore(item) || item.Value.Len() == 0 {
				continue
			}
			if !st.set(&scratch, string(item.Value.Reveal())) {
				problems = append(problems, st.fault(item.Position).Problem)
			}
		}
	}
	return problems
}

// propertyOf returns the property that name, in any case, is the name or an alias of.
func propertyOf(driver providers.Driver, name string) (providers.Property, bool) {
	for _, p := range driver.Properties {
		if slices.ContainsFunc(append([]string{p.Name}, p.Aliases...), func(n string) bool { return strings.EqualFold(n, name) }) {
			return p, true
		}
	}
	return providers.Property{}, false
}

// isSet reports whether c gives property something, under any of its names.
func isSet(c component.Component, driver providers.Driver, property providers.Property) bool {
	return slices.ContainsFunc(c.Metadata, func(item component.Item) bool {
		p, ok := propertyOf(driver, item.Name)
		return ok && p.Name == property.Name && (item.Value.Len() > 0 || fromEnv(item) || fromStore(item))
	})
}

// knownNames returns every metadata name that means something for the driver, aliases aside.
func knownNames(driver providers.Driver) []string {
	var names []string
	for _, p := range driver.Properties {
		names = append(names, p.Name)
	}
	for _, st := range settings() {
		names = append(names, st.name)
	}
	return append(names, identityName)
}

func nearestRemedy(name string, names []string) string {
	if near, ok := component.Nearest(name, names); ok {
		return fmt.Sprintf("write %q, or remove it", near)
	}
	return "remove it; known here: " + strings.Join(names, ", ")
}

func warning(item component.Item, message, remedy string) component.Problem {
	p := fault(item.Position, "spec.metadata", message, remedy).Problem
	p.Severity = component.Warning
	return p
}
