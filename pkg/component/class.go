package component

import "strings"

// classGroup is the API group of the Secrets Store CSI driver.
const classGroup = "secrets-store.csi.x-k8s.io/"

// SecretProviderClass is what a provider of the Secrets Store CSI driver is to read.
type SecretProviderClass struct {
	Name       string
	Namespace  string            // metadata.namespace; empty: not bound to one
	Provider   string            // whose socket it is that is asked
	Parameters map[string]string // for the provider, which alone understands them
	Position   Position
}

// isClass tells whether a document is a SecretProviderClass, of either version: they have the same members.
func isClass(version, kind string) bool {
	return kind == KindSecretProviderClass && strings.HasPrefix(version, classGroup)
}

// class decodes a SecretProviderClass.
func (d *decoder) class(top node) SecretProviderClass {
	o := d.object(top, "apiVersion", "kind", "metadata", "spec", "status")
	meta := d.objectMeta(o["metadata"])
	spec := d.object(o["spec"], "provider", "parameters", "secretObjects")
	c := SecretProviderClass{
		Name:       d.text(meta["name"]),
		Namespace:  d.text(meta["namespace"]),
		Provider:   d.text(spec["provider"]),
		Parameters: map[string]string{},
		Position:   d.position(top),
	}
	d.checkName(top, meta["name"], c.Name)
	if c.Provider == "" {
		d.fail(node{top.yaml, "spec.provider"}, "is missing", "write the name of the provider, such as vault: that of its socket")
	}
	switch parameters := spec["parameters"]; {
	case !parameters.present():
	case !parameters.isMapping():
		d.fail(parameters, "is "+parameters.kind()+", not a mapping", "write the parameters as name: text")
	default:
		for _, m := range d.members(parameters, 0) {
			c.Parameters[m.name] = d.text(d.visit(m.value, join(parameters.path, m.name)))
		}
	}
	if len(d.list(spec["secretObjects"])) > 0 {
		d.warn(spec["secretObjects"], "Keywell makes no Kubernetes Secrets: whoever reads these would go without", "have the pod read the files or the API")
	}
	return c
}
