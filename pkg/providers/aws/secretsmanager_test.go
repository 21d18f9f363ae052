package aws_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/keywell/keywell/internal/storetest"
	"github.com/keywell/keywell/pkg/providers"
	"github.com/keywell/keywell/pkg/providers/aws"
	"github.com/keywell/keywell/pkg/providers/aws/awstest"
)

// TestManifest opens the manifest of Dapr's documentation, with each spelling of its fields.
func TestManifest(t *testing.T) {
	server := newServer(t)
	server.PutSecret("db", "c4n4ry", false)
	server.User("session", "ASIASESSION", "other")
	for name, m := range map[string]map[string]string{
		"as documented": {"region": awstest.Region, "accessKey": accessKey, "secretKey": secretKey, "endpoint": server.URL},
		"aliases":       {"awsRegion": awstest.Region, "AccessKey": accessKey, "SECRETKEY": secretKey, "endpoint": server.URL},
		"empty session": {"region": awstest.Region, "accessKey": accessKey, "secretKey": secretKey, "sessionToken": "", "endpoint": server.URL},
	} {
		t.Run(name, func(t *testing.T) {
			want(t, open(t, aws.SecretsManagerType, storetest.Config(m)), providers.Query{Name: "db"}, "db", "c4n4ry")
		})
	}
	t.Run("environment", func(t *testing.T) {
		t.Setenv("AWS_ACCESS_KEY_ID", accessKey)
		t.Setenv("AWS_SECRET_ACCESS_KEY", secretKey)
		t.Setenv("AWS_REGION", awstest.Region)
		want(t, open(t, aws.SecretsManagerType, storetest.Config(map[string]string{"endpoint": server.URL})), providers.Query{Name: "db"}, "db", "c4n4ry")
	})
	wantKind(t, secrets(t, server, map[string]string{"secretKey": "wrong"}), providers.Query{Name: "db"}, providers.Denied, "InvalidSignatureException")
}

func TestManifestIsRefused(t *testing.T) {
	isolate(t)
	const arn = "arn:aws:rolesanywhere:eu-west-1:123456789012:trust-anchor/1"
	for name, tt := range map[string]struct {
		metadata map[string]string
		text     string
	}{
		"no region":           {map[string]string{}, `"region" is required`},
		"half a key":          {map[string]string{"region": "r", "accessKey": "a"}, "accessKey and secretKey belong together"},
		"endpoint":            {map[string]string{"region": "r", "endpoint": "localhost:4566"}, `"endpoint" is not a URL`},
		"failover":            {map[string]string{"region": "r", "failoverEndpoint": "http://x"}, "needs failoverRegion"},
		"half of anywhere":    {map[string]string{"region": "r", "trustAnchorArn": arn}, "needs all of"},
		"anywhere, no files":  {map[string]string{"region": "r", "trustAnchorArn": arn, "trustProfileArn": arn, "assumeRoleArn": arn}, "certificateFile"},
		"anywhere as the pod": {map[string]string{"region": "r", "trustAnchorArn": arn, "trustProfileArn": arn, "assumeRoleArn": arn, "certificateFile": "c", "privateKeyFile": "k", "identity": "pod"}, "identity"},
		"podIdentity, agent":  {map[string]string{"region": "r", "podIdentity": "true"}, "set identity: pod"},
		"podIdentity, role":   {map[string]string{"region": "r", "podIdentity": "true", "identity": "pod", "assumeRoleArn": arn}, "leave out assumeRoleArn"},
		"podIdentity, no URL": {map[string]string{"region": "r", "podIdentity": "true", "identity": "pod", "podIdentityEndpoint": "169.254.170.23"}, `"podIdentityEndpoint" is not a URL`},
		"keys as the pod":     {map[string]string{"region": "r", "accessKey": "a", "secretKey": "s", "identity": "pod"}, "identity"},
	} {
		t.Run(name, func(t *testing.T) {
			for _, kind := range []string{aws.SecretsManagerType, aws.ParameterStoreType} {
				_, err := driver(t, kind).Open(t.Context(), storetest.Config(tt.metadata))
				if providers.KindOf(err) != providers.Invalid || !strings.Contains(err.Error(), tt.text) {
					t.Errorf("error %v, want Invalid with %q", err, tt.text)
				}
			}
		})
	}
}

// TestNames reads a secret by each of its names. The field has the friendly one, as in Dapr.
func TestNames(t *testing.T) {
	server := newServer(t)
	p := secrets(t, server, nil)
	server.PutSecret("prod/db", "c4n4ry", false)
	arn := server.ARN("prod/db")
	for _, name := range []string{"prod/db", arn, arn[:len(arn)-7]} {
		want(t, p, providers.Query{Name: name}, "prod/db", "c4n4ry")
		if failed := together(t, p, name, "prod/db"); len(failed) > 0 {
			t.Errorf("in a batch: %v", failed)
		}
	}
	for _, name := range []string{arn + ":x", "arn:aws:ssm:eu-west-1:123456789012:secret:x", "arn:aws:secretsmanager:eu-west-1:123456789012:x", "prod:db"} {
		wantKind(t, p, providers.Query{Name: name}, providers.Invalid, "neither a name nor an ARN")
	}
}

func TestFields(t *testing.T) {
	const nested = `{"user":"c4n4ry","port":5432,"big":12345678901234567890,"on":true,"none":null,"tls":{"crt":"C","alt":["a","b"]},"é":"ü\n"}`
	for name, tt := range map[string]struct {
		metadata map[string]string
		value    string
		binary   bool
		want     map[string]string
	}{
		"single":   {nil, nested, false, map[string]string{"db": nested}},
		"multiple": {map[string]string{"multipleKeyValuesPerSecret": "true"}, nested, false, map[string]string{"user": "c4n4ry", "port": "5432", "big": "12345678901234567890", "on": "true", "none": "null", "tls": `{"crt":"C","alt":["a","b"]}`, "é": "ü\n"}},
		"nested": {map[string]string{"multipleKeyValuesPerSecret": "yes", "nestedSeparator": "."}, nested, false, map[string]string{
			"user": "c4n4ry", "port": "5432", "big": "12345678901234567890", "on": "true", "none": "null", "tls.crt": "C", "tls.alt.0": "a", "tls.alt.1": "b", "é": "ü\n"}},
		"no object": {map[string]string{"multipleKeyValuesPerSecret": "true"}, `["c4n4ry"]`, false, map[string]string{"db": `["c4n4ry"]`}},
		"no JSON":   {map[string]string{"multipleKeyValuesPerSecret": "true"}, `c4n4ry`, false, map[string]string{"db": `c4n4ry`}},
		"binary":    {map[string]string{"multipleKeyValuesPerSecret": "true"}, "\x00\xff{}", true, map[string]string{"db": "\x00\xff{}"}},
	} {
		t.Run(name, func(t *testing.T) {
			server := newServer(t)
			server.PutSecret("db", tt.value, tt.binary)
			p := secrets(t, server, tt.metadata)
			got, _, err := storetest.Fetch(t, p, providers.Query{Name: "db"})
			if diff := cmp.Diff(tt.want, got); err != nil || diff != "" {
				t.Errorf("error %v, mismatch (-want +got):\n%s", err, diff)
			}
			cfg := storetest.Config(tt.metadata)
			if d := driver(t, aws.SecretsManagerType); d.MultipleKeyValues(cfg) != (tt.metadata != nil) {
				t.Error("the capability does not fit")
			}
		})
	}
}

func TestStages(t *testing.T) {
	server := newServer(t)
	p := secrets(t, server, nil)
	first := server.PutSecret("db", "c4n4ry-1", false)
	server.PutSecret("db", "c4n4ry-2", false)
	server.StageSecret("db", "blue")
	want(t, p, providers.Query{Name: "db", Stage: "blue"}, "db", "c4n4ry-2")
	want(t, p, providers.Query{Name: "db", Version: first, Stage: "AWSPREVIOUS"}, "db", "c4n4ry-1")
	wantKind(t, p, providers.Query{Name: "db", Version: first, Stage: "blue"}, providers.NotFound, "ResourceNotFoundException")
	if payload := want(t, p, providers.Query{Name: "db", Known: first}, "db", "c4n4ry-2"); payload.Unchanged {
		t.Error("an old version is called unchanged")
	}
	_, payload, err := storetest.Fetch(t, p, providers.Query{Name: "db", Stage: "AWSPREVIOUS", Known: first})
	if err != nil || !payload.Unchanged {
		t.Errorf("the previous version is known, and came as %+v, %v", payload, err)
	}
}

// TestBatch reads 45 secrets at once: three calls, one of which is for what is missing or not allowed.
func TestBatch(t *testing.T) {
	server := newServer(t)
	p := secrets(t, server, nil)
	var names []string
	for i := range 45 {
		name := fmt.Sprintf("db-%02d", i)
		names = append(names, name)
		server.PutSecret(name, "c4n4ry-"+name, false)
	}
	if failed := together(t, p, names...); len(failed) > 0 {
		t.Error(failed)
	}
	if n := len(server.Calls("")); n > 6 {
		t.Errorf("%d calls for 45 secrets", n)
	}
	server.DeleteSecret("db-01")
	failed := together(t, p, names[:5]...)
	if len(failed) != 1 || providers.KindOf(failed["db-01"]) != providers.NotFound {
		t.Errorf("with one missing: %v", failed)
	}
}

// TestBatchIsARightOfItsOwn: those who may only do what Dapr does are served one by one, and asked for the batch once.
func TestBatchIsARightOfItsOwn(t *testing.T) {
	server := newServer(t)
	server.User("dapr", "AKIDDAPR", "s")
	server.Allow("dapr", "secretsmanager:GetSecretValue", "db-*")
	p := secrets(t, server, map[string]string{"accessKey": "AKIDDAPR", "secretKey": "s"})
	for _, name := range []string{"db-1", "db-2", "other"} {
		server.PutSecret(name, "c4n4ry", false)
	}
	for range 3 {
		failed := together(t, p, "db-1", "db-2", "other")
		if len(failed) != 1 || providers.KindOf(failed["other"]) != providers.Denied {
			t.Errorf("failed: %v", failed)
		}
	}
	if n := len(server.Calls("secretsmanager:BatchGetSecretValue")); n > 1 {
		t.Errorf("%d calls that are not allowed", n)
	}
	version := server.PutSecret("db-1", "c4n4ry", false)
	for range 3 {
		want(t, p, providers.Query{Name: "db-1", Known: version}, "db-1", "c4n4ry")
	}
	if n := len(server.Calls("secretsmanager:DescribeSecret")); n != 1 {
		t.Errorf("%d calls of DescribeSecret that are not allowed, want 1", n)
	}
}

// TestUnchangedIsNotRead counts what a refresh costs.
func TestUnchangedIsNotRead(t *testing.T) {
	server := newServer(t)
	p := secrets(t, server, nil)
	version := server.PutSecret("db", "c4n4ry", false)
	for range 3 {
		if _, payload, err := storetest.Fetch(t, p, providers.Query{Name: "db", Known: version}); err != nil || !payload.Unchanged || payload.Version != version {
			t.Errorf("got %+v, %v", payload, err)
		}
	}
	if n := len(server.Calls("secretsmanager:GetSecretValue")); n != 0 {
		t.Errorf("the value was read %d times", n)
	}
	newer := server.PutSecret("db", "c4n4ry-2", false)
	if payload := want(t, p, providers.Query{Name: "db", Known: version}, "db", "c4n4ry-2"); payload.Version != newer {
		t.Errorf("version %q, want %q", payload.Version, newer)
	}
}

func TestErrors(t *testing.T) {
	for name, tt := range map[string]struct {
		fault awstest.Fault
		kind  providers.Kind
		text  string
	}{
		"marked for deletion":     {awstest.Fault{Code: "InvalidRequestException"}, providers.NotFound, "InvalidRequestException"},
		"key is disabled":         {awstest.Fault{Code: "DecryptionFailure"}, providers.Denied, "DecryptionFailure"},
		"half a body":             {awstest.Fault{}, providers.Unavailable, "cut off or malformed"},
		"unknown code":            {awstest.Fault{Code: "NewException"}, providers.Invalid, "NewException"},
		"unknown code, 503":       {awstest.Fault{Code: "NewException", Status: http.StatusServiceUnavailable}, providers.Unavailable, "NewException"},
		"too many, by status":     {awstest.Fault{Code: "NewException", Status: http.StatusTooManyRequests}, providers.Throttled, "NewException"},
		"denied, by status":       {awstest.Fault{Code: "NewException", Status: http.StatusForbidden}, providers.Denied, "NewException"},
		"throttled":               {awstest.Fault{Code: "ThrottlingException"}, providers.Throttled, "ThrottlingException"},
		"credentials of the past": {awstest.Fault{Code: "ExpiredTokenException"}, providers.Unavailable, "ExpiredTokenException"},
	} {
		t.Run(name, func(t *testing.T) {
			server := newServer(t)
			p := secrets(t, server, nil)
			server.PutSecret("db", "c4n4ry", false)
			failName(server, "db", tt.fault)
			wantKind(t, p, providers.Query{Name: "db"}, tt.kind, tt.text)
			if n := len(server.Calls("")); n != 1 {
				t.Errorf("%d calls: a driver does not retry", n)
			}
		})
	}
	t.Run("nobody there", func(t *testing.T) {
		server := newServer(t)
		p := secrets(t, server, map[string]string{"endpoint": "http://127.0.0.1:1"})
		wantKind(t, p, providers.Query{Name: "db"}, providers.Unavailable, "refused")
	})
}
