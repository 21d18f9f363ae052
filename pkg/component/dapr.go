package component

import (
	"fmt"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/keywell/keywell/pkg/secret"
)

// defaultInitTimeout is Dapr's, for a component without an initTimeout or with one that is no use.
const defaultInitTimeout = 5 * time.Second

// typePrefix starts the type of every component that is a secret store.
const typePrefix = "secretstores."

// ownType is the type that the daprds of a cluster know agents' stores by (see package volume). Its objects have the names
// of our stores, so they must not stand in the way of these.
const ownType = typePrefix + "keywell"

// component decodes a Dapr Component. The result is false for one that is no secret store of ours, which is no fault.
func (d *decoder) component(top node) (Component, bool) {
	o := d.object(top, "apiVersion", "kind", "metadata", "spec", "auth", "scopes", "status")
	meta := d.objectMeta(o["metadata"])
	spec := d.object(o["spec"], "type", "version", "initTimeout", "ignoreErrors", "metadata")
	c := Component{
		Name:      d.text(meta["name"]),
		Namespace: d.text(meta["namespace"]),
		Type:      strings.ToLower(d.text(spec["type"])),
		Version:   d.text(spec["version"]),
		Position:  d.position(top),
	}
	if c.Type == "" {
		d.fail(node{top.yaml, "spec.type"}, "is missing", "write the type of the store, such as secretstores.local.file")
		return Component{}, false
	}
	if reason := d.foreign(c); reason != "" {
		d.problems = nil // whatever else is wrong with it, it is not for us
		d.failed = false
		d.report(Note, top, reason, "")
		return Component{}, false
	}
	d.checkName(top, meta["name"], c.Name)
	d.checkVersion(spec["version"], c.Version)
	c.InitTimeout = d.initTimeout(spec["initTimeout"])
	c.IgnoreErrors = d.truth(spec["ignoreErrors"])
	c.SecretStore = d.text(d.object(o["auth"], "secretStore")["secretStore"])
	c.Scopes = d.texts(o["scopes"])
	c.Metadata = d.items(spec["metadata"])
	return c, true
}

// foreign tells why c is not one of this agent's stores, or is empty.
func (d *decoder) foreign(c Component) string {
	switch {
	case !strings.HasPrefix(c.Type, typePrefix):
		return fmt.Sprintf("component %q of type %q is not a secret store", c.Name, c.Type)
	case d.inAPI && c.Type == ownType:
		return fmt.Sprintf("component %q of type %q is for a daprd, which has it from an agent", c.Name, c.Type)
	case d.src.Namespace != "" && c.Namespace != "" && c.Namespace != d.src.Namespace:
		return fmt.Sprintf("component %q belongs to namespace %q, not %q", c.Name, c.Namespace, d.src.Namespace)
	default:
		return ""
	}
}

// objectMeta decodes the metadata that every Kubernetes object has.
func (d *decoder) objectMeta(n node) map[string]node {
	return d.object(n, "name", "namespace", "labels", "annotations", "generateName", "uid", "resourceVersion", "generation",
		"creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds", "ownerReferences", "finalizers",
		"managedFields", "selfLink")
}

// checkName applies the rule for a path segment, which Dapr takes from Kubernetes, and refuses an empty name. n is what
// was written for name.
func (d *decoder) checkName(top, n node, name string) {
	switch {
	case n.yaml == nil:
		d.fail(node{top.yaml, "metadata.name"}, "is missing", "name the object")
	case name == "" && n.yaml.Kind == yaml.ScalarNode:
		d.fail(n, "is empty", "name the object")
	case name == "." || name == ".." || strings.ContainsAny(name, "/%"):
		d.fail(n, fmt.Sprintf("%q can't be part of a path", name), "leave out / and %")
	}
}

func (d *decoder) checkVersion(n node, version string) {
	switch strings.ToLower(version) {
	case "", "v0", "v1":
	default:
		d.fail(n, fmt.Sprintf("version %q does not exist", version), "write v1")
	}
}

func (d *decoder) initTimeout(n node) time.Duration {
	s := d.text(n)
	if s == "" {
		return defaultInitTimeout
	}
	t, err := time.ParseDuration(s)
	if err != nil || t <= 0 {
		d.warn(n, fmt.Sprintf("%q is not a positive duration; %v is used", s, defaultInitTimeout), "write a duration such as 10s")
		return defaultInitTimeout
	}
	return t
}

// items decodes spec.metadata. Drivers match names in any case, so two that differ by case only are a fault. Of two that
// are the same the last one counts, as in Dapr.
func (d *decoder) items(list node) []Item {
	var items []Item
	at := map[string]int{} // lower-case name → index in items
	for _, n := range d.list(list) {
		item := d.item(n)
		key := strings.ToLower(item.Name)
		i, twice := at[key]
		switch {
		case item.Name == "":
		case !twice:
			at[key] = len(items)
			items = append(items, item)
		case items[i].Name == item.Name:
			d.warn(n, fmt.Sprintf("%q is given again, first %s; the last one counts", item.Name, d.where(items[i].Position)),
				"keep one of the two")
			items[i] = item
		default:
			d.fail(n, fmt.Sprintf("%q and %q %s differ only by case", item.Name, items[i].Name, d.where(items[i].Position)),
				"keep one of the two")
		}
	}
	return items
}

func (d *decoder) item(n node) Item {
	o := d.object(n, "name", "value", "secretKeyRef", "envRef")
	item := Item{
		Name:     d.text(o["name"]),
		EnvRef:   d.text(o["envRef"]),
		Position: d.position(n),
	}
	if value := o["value"]; value.present() {
		text, ok := d.value(value)
		item.Value, item.HasValue = secret.FromString(d.expand(value, text)), ok
	}
	ref := d.object(o["secretKeyRef"], "name", "key")
	if name := d.text(ref["name"]); name != "" {
		item.SecretKeyRef = &KeyRef{Name: name, Key: d.text(ref["key"])}
		if item.SecretKeyRef.Key == "" {
			item.SecretKeyRef.Key = name
		}
	}
	switch {
	case !n.present():
		d.warn(n, "entry is empty and ignored", "remove it")
	case item.Name == "":
		d.warn(n, "entry without a name is ignored", "name it, or remove it")
	case !o["value"].present() && item.SecretKeyRef == nil && item.EnvRef == "":
		d.warn(n, fmt.Sprintf("%q has neither a value nor a reference and is ignored", item.Name),
			"add value, secretKeyRef with a name, or envRef")
	}
	return item
}

// configuration decodes what Keywell uses of a Dapr Configuration. Other members of spec belong to other parts of Dapr.
func (d *decoder) configuration(top node) Configuration {
	o := d.object(top, "apiVersion", "kind", "metadata", "spec", "status")
	meta := d.objectMeta(o["metadata"])
	spec := d.object(o["spec"], "appHttpPipeline", "httpPipeline", "tracing", "metric", "metrics", "mtls", "secrets",
		"accessControl", "nameResolution", "features", "api", "components", "logging", "wasm", "workflow")
	secrets := d.object(spec["secrets"], "scopes")
	c := Configuration{Name: d.text(meta["name"]), Position: d.position(top)}
	entries := map[string]Position{} // by store
	for _, n := range d.list(secrets["scopes"]) {
		s := d.scope(n)
		if first, twice := entries[s.Store]; twice {
			d.fail(n, fmt.Sprintf("%s storeName is repeated in secrets configuration, first %s", s.Store, d.where(first)),
				"keep one entry for the store")
		}
		entries[s.Store] = s.Position
		c.Scopes = append(c.Scopes, s)
	}
	return c
}

func (d *decoder) scope(n node) Scope {
	o := d.object(n, "storeName", "defaultAccess", "allowedSecrets", "deniedSecrets")
	s := Scope{
		Store:         d.text(o["storeName"]),
		DefaultAccess: d.text(o["defaultAccess"]),
		Allowed:       d.texts(o["allowedSecrets"]),
		Denied:        d.texts(o["deniedSecrets"]),
		Position:      d.position(n),
	}
	if s.Store == "" {
		d.warn(n, "entry without a storeName limits no store", "name the store")
	}
	switch strings.ToLower(s.DefaultAccess) {
	case "", "allow", "deny":
	default:
		d.fail(o["defaultAccess"], fmt.Sprintf("%q is neither allow nor deny", s.DefaultAccess), "write allow or deny")
	}
	return s
}
