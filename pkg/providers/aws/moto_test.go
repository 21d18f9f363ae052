package aws_test

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	awssdk "github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/secretsmanager"
	smtypes "github.com/aws/aws-sdk-go-v2/service/secretsmanager/types"
	"github.com/aws/aws-sdk-go-v2/service/ssm"
	ssmtypes "github.com/aws/aws-sdk-go-v2/service/ssm/types"

	"github.com/keywell/keywell/internal/storetest"
	"github.com/keywell/keywell/pkg/providers"
	"github.com/keywell/keywell/pkg/providers/aws"
	"github.com/keywell/keywell/pkg/providers/aws/awstest"
	"github.com/keywell/keywell/pkg/providers/providertest"
)

// The tests of this file ask a second judge, which we did not write: moto, an emulator of AWS in Python. It knows AWS'
// formats and answers; it checks no signatures, so those remain awstest's.

// startMoto starts moto's server and returns its URL. make moto installs it and says where it is.
func startMoto(t *testing.T) string {
	t.Helper()
	program := os.Getenv("KEYWELL_MOTO")
	if program == "" {
		t.Skip("moto is not there: run make moto, which needs Python 3 and PyPI")
	}
	isolate(t)
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := free.Addr().String()
	_ = free.Close()
	_, port, _ := net.SplitHostPort(address)
	cmd := exec.Command(program, "-H", "127.0.0.1", "-p", port)
	cmd.Env = slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "AWS_") })
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	for end := time.Now().Add(time.Minute); ; {
		resp, err := http.Get("http://" + address + "/moto-api/data.json")
		if err == nil {
			_ = resp.Body.Close()
			return "http://" + address
		}
		if time.Now().After(end) {
			t.Fatalf("moto does not answer: %v", err)
		}
		<-time.After(100 * time.Millisecond)
	}
}

// resetMoto empties it.
func resetMoto(t *testing.T, url string) {
	t.Helper()
	resp, err := http.Post(url+"/moto-api/reset", "", nil)
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
}

func motoMetadata(url string, more map[string]string) map[string]string {
	m := map[string]string{"region": awstest.Region, "endpoint": url, "stsEndpoint": url, "accessKey": accessKey, "secretKey": secretKey}
	for name, value := range more {
		m[name] = value
	}
	return m
}

func motoConfig() awssdk.Config {
	return awssdk.Config{Region: awstest.Region, Credentials: credentials.NewStaticCredentialsProvider(accessKey, secretKey, "")}
}

func TestMotoSecretsManager(t *testing.T) {
	url := startMoto(t)
	admin := secretsmanager.NewFromConfig(motoConfig(), func(o *secretsmanager.Options) { o.BaseEndpoint = &url })
	h := secretsManagerHarness()
	h.PageSize = 50
	h.Open = func(t *testing.T, log *slog.Logger) providertest.Store {
		resetMoto(t, url)
		cfg := storetest.Config(motoMetadata(url, nil))
		cfg.Logger = log
		return providertest.Store{
			Provider: open(t, aws.SecretsManagerType, cfg),
			Put:      func(name string, fields map[string]string) string { return putSecret(t, admin, name, fields[name]) },
			Delete: func(name string) {
				_, err := admin.DeleteSecret(context.Background(), &secretsmanager.DeleteSecretInput{SecretId: &name, ForceDeleteWithoutRecovery: awssdk.Bool(true)})
				if err != nil {
					t.Fatal(err)
				}
			},
		}
	}
	providertest.Run(t, h)
}

// putSecret writes a secret through the SDK.
func putSecret(t *testing.T, admin *secretsmanager.Client, name, value string) string {
	t.Helper()
	text, binary := &value, []byte(nil)
	if !utf8.ValidString(value) {
		text, binary = nil, []byte(value)
	}
	created, err := admin.CreateSecret(context.Background(), &secretsmanager.CreateSecretInput{Name: &name, SecretString: text, SecretBinary: binary})
	if err == nil {
		return awssdk.ToString(created.VersionId)
	}
	if _, exists := errors.AsType[*smtypes.ResourceExistsException](err); !exists {
		t.Fatal(err)
	}
	put, err := admin.PutSecretValue(context.Background(), &secretsmanager.PutSecretValueInput{SecretId: &name, SecretString: text, SecretBinary: binary})
	if err != nil {
		t.Fatal(err)
	}
	return awssdk.ToString(put.VersionId)
}

func TestMotoParameterStore(t *testing.T) {
	url := startMoto(t)
	admin := ssm.NewFromConfig(motoConfig(), func(o *ssm.Options) { o.BaseEndpoint = &url })
	providertest.Run(t, providertest.Harness{
		Open: func(t *testing.T, log *slog.Logger) providertest.Store {
			resetMoto(t, url)
			cfg := storetest.Config(motoMetadata(url, map[string]string{"prefix": "/prod/"}))
			cfg.Logger = log
			return providertest.Store{
				Provider: open(t, aws.ParameterStoreType, cfg),
				Put: func(name string, fields map[string]string) string {
					out, err := admin.PutParameter(context.Background(), &ssm.PutParameterInput{
						Name: awssdk.String("/prod/" + name), Value: awssdk.String(fields[name]), Type: ssmtypes.ParameterTypeSecureString,
						Overwrite: awssdk.Bool(true),
					})
					if err != nil {
						t.Fatal(err)
					}
					return strconv.FormatInt(out.Version, 10)
				},
				Delete: func(name string) {
					if _, err := admin.DeleteParameter(context.Background(), &ssm.DeleteParameterInput{Name: awssdk.String("/prod/" + name)}); err != nil {
						t.Fatal(err)
					}
				},
			}
		},
		NoEmpty: true, MaxValue: 4 << 10, Lists: true, PageSize: 50, Compares: true, UnknownVersion: "1000",
	})
}

// TestMotoPodIdentity exchanges a pod's token at moto's STS.
func TestMotoPodIdentity(t *testing.T) {
	url := startMoto(t)
	admin := secretsmanager.NewFromConfig(motoConfig(), func(o *secretsmanager.Options) { o.BaseEndpoint = &url })
	putSecret(t, admin, "db", "c4n4ry")
	server := awstest.NewServer(t) // for its tokens
	cfg := storetest.Config(map[string]string{"region": awstest.Region, "endpoint": url, "stsEndpoint": url, "identity": "pod"})
	cfg.ServiceAccounts = storetest.Accounts{"shop/alice": {"eks.amazonaws.com/role-arn": "arn:aws:iam::123456789012:role/alice"}}
	p := open(t, aws.SecretsManagerType, cfg)
	want(t, p, as(server, "alice", "db"), "db", "c4n4ry")
	names := []string{"db"}
	for _, name := range strings.Fields("a b c d") {
		putSecret(t, admin, name, "c4n4ry")
		names = append(names, name)
	}
	agent := open(t, aws.SecretsManagerType, storetest.Config(motoMetadata(url, nil)))
	if failed := together(t, agent, names...); len(failed) > 0 {
		t.Errorf("in a batch: %v", failed)
	}
	_, _, err := storetest.Fetch(t, agent, providers.Query{Name: "none"})
	if providers.KindOf(err) != providers.NotFound {
		t.Errorf("missing: %v", err)
	}
}
