package providers_test

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/keywell/keywell/pkg/providers"
	"github.com/keywell/keywell/pkg/secret"
)

func declared() []providers.Property {
	return []providers.Property{
		{Name: "vaultAddr"},
		{Name: "clientSecret", Aliases: []string{"azureClientSecret", "spnClientSecret"}, Secret: true},
		{Name: "enabled"},
		{Name: "maxRetries"},
		{Name: "cacheTTL"},
	}
}

func properties(pairs map[string]string) providers.Properties {
	p := providers.Properties{}
	for name, value := range pairs {
		p[strings.ToLower(name)] = secret.FromString(value)
	}
	return p
}

type decoded struct {
	Addr    string
	Secret  string
	Enabled bool
	Retries int
	TTL     time.Duration
}

func decode(d *providers.Decoder) decoded {
	return decoded{
		Addr:    d.String("vaultAddr", "default"),
		Secret:  string(d.Secret("clientSecret").Reveal()),
		Enabled: d.Truthy("enabled", true),
		Retries: d.Int("maxRetries", 3),
		TTL:     d.Duration("cacheTTL", time.Minute),
	}
}

func TestDecoder(t *testing.T) {
	defaults := decoded{Addr: "default", Enabled: true, Retries: 3, TTL: time.Minute}
	for name, tt := range map[string]struct {
		in   map[string]string
		want decoded
	}{
		"nothing is set":   {nil, defaults},
		"empty is not set": {map[string]string{"vaultAddr": "", "enabled": "", "maxRetries": "", "cacheTTL": ""}, defaults},
		"everything is set": {
			map[string]string{"vaultAddr": "a", "clientSecret": "s", "enabled": "off", "maxRetries": "-1", "cacheTTL": "1m30s"},
			decoded{"a", "s", false, -1, 90 * time.Second},
		},
		"canonical name before aliases": {
			map[string]string{"clientSecret": "first", "azureClientSecret": "second"},
			decoded{"default", "first", true, 3, time.Minute},
		},
		"aliases in order": {
			map[string]string{"spnClientSecret": "third", "azureClientSecret": "second"},
			decoded{"default", "second", true, 3, time.Minute},
		},
		"empty name falls through to alias": {
			map[string]string{"clientSecret": "", "spnClientSecret": "third"},
			decoded{"default", "third", true, 3, time.Minute},
		},
	} {
		t.Run(name, func(t *testing.T) {
			d := properties(tt.in).Decode(declared())
			if diff := cmp.Diff(tt.want, decode(d)); diff != "" {
				t.Errorf("mismatch (-want +got):\n%s", diff)
			}
			if err := d.Err(); err != nil {
				t.Errorf("Err: %v", err)
			}
		})
	}
}

func TestDecoderTruthy(t *testing.T) {
	for text, want := range map[string]bool{
		"y": true, "Yes": true, "TRUE": true, "t": true, "on": true, "1": true, " true ": true,
		"n": false, "false": false, "2": false, "enabled": false,
	} {
		if got := properties(map[string]string{"enabled": text}).Decode(declared()).Truthy("enabled", !want); got != want {
			t.Errorf("Truthy of %q = %t, want %t", text, got, want)
		}
	}
}

func TestDecoderErrors(t *testing.T) {
	const canary = "c4n4ry"
	d := properties(map[string]string{"maxRetries": canary, "cacheTTL": "60" + canary, "required": "", "other": canary}).
		Decode(append(declared(), providers.Property{Name: "required", Required: true}, providers.Property{Name: "needed", Aliases: []string{"other"}, Required: true}))
	decode(d)
	d.String("misspelt", "")
	err := d.Err()
	if providers.KindOf(err) != providers.Invalid {
		t.Fatalf("Err() = %v, of kind %v", err, providers.KindOf(err))
	}
	const want = `metadata field "required" is required; field "maxRetries" is not a whole number such as 10; ` +
		`field "cacheTTL" is not a duration such as 30s or 5m; field "misspelt" is read by the driver but not declared by it`
	if err.Error() != want {
		t.Errorf("error\n%s\nwant\n%s", err, want)
	}
}
