package main

import (
	"fmt"
	"time"

	"github.com/keywell/keywell/pkg/component"
	"github.com/keywell/keywell/pkg/providers"
	"github.com/keywell/keywell/pkg/providers/csiprovider"
	"github.com/keywell/keywell/pkg/secret"
	"github.com/keywell/keywell/pkg/volume"
)

// withClasses adds a store for each SecretProviderClass. On a node of Kubernetes it is one of the class's namespace, for the
// pods of which it is open, and the provider is told which pod asks. Of two with one name the first counts, and a component
// that has the name keeps it; a problem says so.
func withClasses(components []component.Component, classes []component.SecretProviderClass, kubernetes bool) ([]component.Component, []component.Problem) {
	taken := make(map[string]component.Position, len(components))
	for _, c := range components {
		taken[c.Key()] = c.Position
	}
	var problems []component.Problem
	for _, class := range classes {
		c := classStore(class, kubernetes)
		if first, twice := taken[c.Key()]; twice {
			problems = append(problems, component.Problem{
				Position: class.Position, Severity: component.Error, Field: "metadata.name",
				Message: fmt.Sprintf("store %q is already defined at %s", c.Name, first), Remedy: "rename or remove one of the two",
			})
			continue
		}
		taken[c.Key()] = class.Position
		components = append(components, c)
	}
	return components, problems
}

func classStore(class component.SecretProviderClass, kubernetes bool) component.Component {
	encoded, err := csiprovider.Class{Name: class.Name, Provider: class.Provider, Parameters: class.Parameters}.Encode()
	if err != nil {
		panic(fmt.Sprintf("texts can't be written: %v", err))
	}
	c := component.Component{
		Name: volume.ClassStore(class.Name), Type: csiprovider.Type, Version: "v1", InitTimeout: 5 * time.Second, Position: class.Position,
		Metadata: []component.Item{{Name: csiprovider.ClassProperty, Value: secret.New(encoded), HasValue: true, Position: class.Position}},
	}
	if kubernetes {
		c.Namespace, c.Namespaced = class.Namespace, class.Namespace != ""
		c.Metadata = append(c.Metadata, component.Item{
			Name: "identity", Value: secret.FromString(string(providers.AsPod)), HasValue: true, Position: class.Position,
		})
	}
	return c
}
