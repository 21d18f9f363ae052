package localhost

import "fmt"

// Default says which pods get listeners that say nothing.
type Default string

// The defaults.
const (
	Asked Default = "asked" // none
	All   Default = "all"   // all but those in the node's network, and those with a Dapr sidecar
)

// ParseDefault reads a Default.
func ParseDefault(s string) (Default, error) {
	switch d := Default(s); d {
	case Asked, All:
		return d, nil
	default:
		return "", fmt.Errorf("%q is not %s or %s", s, Asked, All)
	}
}

// Pod is what decides whether a pod is to have listeners.
type Pod struct {
	Annotation string // its annotation keywell.dev/api; empty: none
	Volume     bool   // one of its volumes has the attribute api: localhost
	Sidecar    bool   // it has a Dapr sidecar
}

// Wish is whether a pod is to have listeners.
type Wish struct {
	Wanted  bool
	Asked   bool   // the pod itself says so, and is told if it can't be
	Against string // why it can't be, although it is wanted; empty: nothing is known
}

// The values of the annotation.
const (
	askLocalhost = "localhost"
	askNothing   = "none"
)

// Wish returns what a pod wishes. The annotation wins over a volume, and both over the default.
func (d Default) Wish(p Pod) Wish {
	w := Wish{Wanted: d == All}
	switch p.Annotation {
	case "":
		if p.Volume {
			w = Wish{Wanted: true, Asked: true}
		}
	case askLocalhost:
		w = Wish{Wanted: true, Asked: true}
	case askNothing:
		return Wish{}
	default:
		return Wish{Wanted: true, Asked: true, Against: fmt.Sprintf(
			"the annotation keywell.dev/api is %q; it must be %s or %s (sockets are asked for by a volume with the attribute api: socket)",
			p.Annotation, askLocalhost, askNothing)}
	}
	if w.Wanted && p.Sidecar {
		w.Against = "the pod has a Dapr sidecar (dapr.io/enabled), which listens on the same ports; remove one of the annotations"
	}
	return w
}
