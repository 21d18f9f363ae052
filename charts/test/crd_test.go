package chart_test

import (
	"testing"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
)

// TestNothingIsPruned: the API server drops what a schema does not know, and of a policy that must not happen. Without
// the misspelt member of {namespce: shop}, a subject is everyone. The agent refuses what it does not know.
func TestNothingIsPruned(t *testing.T) {
	schema := decode(t, mustRender(t, "", newest)).crd.Spec.Versions[0].Schema.OpenAPIV3Schema
	objects := 0
	var walk func(path string, s apiextensionsv1.JSONSchemaProps)
	walk = func(path string, s apiextensionsv1.JSONSchemaProps) {
		if s.Type == "object" {
			objects++
			if s.XPreserveUnknownFields == nil || !*s.XPreserveUnknownFields {
				t.Errorf("what %s does not know is dropped", path)
			}
		}
		for name, p := range s.Properties {
			walk(path+"."+name, p)
		}
		if s.Items != nil {
			walk(path+"[]", *s.Items.Schema)
		}
	}
	walk("spec", schema.Properties["spec"])
	if objects != 3 {
		t.Errorf("there are %d objects in spec, want spec, rule and subject", objects)
	}
}
