package component

import "github.com/keywell/keywell/pkg/scope"

// accessPolicy decodes Keywell's AccessPolicy. Nothing in it is ignored: a rule that does not say what its author thinks
// is worse than none.
func (d *decoder) accessPolicy(top node) AccessPolicy {
	o := d.object(top, "apiVersion", "kind", "metadata", "spec")
	meta := d.object(o["metadata"], "name", "labels", "annotations") // of an object of the cluster nothing else is kept
	spec := d.object(o["spec"], "rules")
	p := AccessPolicy{Name: d.text(meta["name"]), Position: d.position(top)}
	d.checkName(top, meta["name"], p.Name)
	rules := d.list(spec["rules"])
	if len(rules) == 0 {
		d.fail(node{top.yaml, "spec.rules"}, "is missing or empty", "write at least one rule")
	}
	for _, n := range rules {
		p.Rules = append(p.Rules, d.accessRule(n))
	}
	return p
}

func (d *decoder) accessRule(n node) AccessRule {
	o := d.object(n, "subjects", "stores", "allow", "deny", "namespaces")
	r := AccessRule{
		Stores:     d.patterns(o["stores"]),
		Allow:      d.patterns(o["allow"]),
		Deny:       d.patterns(o["deny"]),
		Namespaces: d.patterns(o["namespaces"]),
		Position:   d.position(n),
	}
	for _, s := range d.list(o["subjects"]) {
		m := d.object(s, "namespace", "serviceAccount", "appID")
		r.Subjects = append(r.Subjects, scope.Subject{
			Namespace: d.text(m["namespace"]), ServiceAccount: d.text(m["serviceAccount"]), AppID: d.text(m["appID"]),
		})
	}
	if len(r.Subjects) == 0 {
		d.fail(node{n.yaml, join(n.path, "subjects")}, "is missing or empty, so the rule is for no one",
			"list subjects; {} stands for every caller")
	}
	if len(r.Stores) == 0 {
		d.fail(node{n.yaml, join(n.path, "stores")}, "is missing or empty, so the rule is for no store",
			`list store names; "*" stands for all`)
	}
	if len(r.Allow)+len(r.Deny) == 0 {
		d.fail(n, "rule neither allows nor denies anything", "list secret names in allow or deny")
	}
	return r
}

// patterns decodes a list of globs, of which none is empty.
func (d *decoder) patterns(list node) []string {
	var all []string
	for _, n := range d.list(list) {
		s := d.text(n)
		if s == "" {
			d.fail(n, "is empty", "write a pattern, or remove the entry")
		}
		all = append(all, s)
	}
	return all
}
