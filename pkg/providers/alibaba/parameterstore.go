package alibaba

import (
	"context"
	"net/http"
	"slices"
	"strconv"

	openapi "github.com/alibabacloud-go/darabonba-openapi/v2/client"
	"github.com/alibabacloud-go/darabonba-openapi/v2/utils"
	"github.com/alibabacloud-go/tea/dara"

	"github.com/keywell/keywell/pkg/providers"
	"github.com/keywell/keywell/pkg/providers/connect"
	"github.com/keywell/keywell/pkg/secret"
)

// Type is Dapr's component type.
const Type = "secretstores.alicloud.parameterstore"

// apiVersion is that of OOS. Source: https://api.aliyun.com/document/oos/2019-06-01/GetSecretParameter.
const apiVersion = "2019-06-01"

func properties() []providers.Property {
	return []providers.Property{
		{Name: "regionId", Required: true},
		{Name: "accessKeyId", Required: true},
		{Name: "accessKeySecret", Required: true, Secret: true},
		{Name: "securityToken", Secret: true},
		{Name: "endpoint"},
	}
}

func selectors() providers.Selectors { return providers.Selectors{Version: true} }

// Driver returns the driver.
func Driver() providers.Driver { return driver(nil) }

func driver(dial connect.Dialer) providers.Driver {
	return providers.Driver{
		Type:       Type,
		Properties: properties(),
		Selectors:  selectors(),
		Open: func(_ context.Context, cfg providers.Config) (providers.Provider, error) {
			return open(cfg.Properties, dial)
		},
	}
}

func open(p providers.Properties, dial connect.Dialer) (providers.Provider, error) {
	d := p.Decode(properties())
	region, endpoint := d.String("regionId", ""), d.URL("endpoint", "https://oos.cn-hangzhou.aliyuncs.com")
	id, key := string(d.Secret("accessKeyId").Reveal()), string(d.Secret("accessKeySecret").Reveal())
	token := string(d.Secret("securityToken").Reveal())
	if err := d.Err(); err != nil {
		return nil, err
	}
	if !providers.ConsistsOf(region, 64, "-") {
		return nil, providers.Errorf(providers.Invalid, `metadata field "regionId" is not a region such as cn-hangzhou`)
	}
	protocol, host := "https", "oos."+region+".aliyuncs.com"
	if endpoint != nil {
		protocol, host = endpoint.Scheme, endpoint.Host
	}
	web := connect.Client(dial)
	config := &openapi.Config{
		AccessKeyId: &id, AccessKeySecret: &key, RegionId: &region, Endpoint: &host, Protocol: &protocol,
		HttpClient: caller{web},
	}
	if token != "" {
		config.SecurityToken = &token
	}
	client, err := openapi.NewClient(config)
	if err != nil { // its text may hold the keys
		return nil, providers.Errorf(providers.Invalid, "the keys can't be used as they are set")
	}
	return &store{Gate: providers.NewGate(selectors(), web.CloseIdleConnections), client: client, region: region}, nil
}

// caller sends requests on the store's own connections, not on those that the SDK makes for all its clients.
type caller struct{ http *http.Client }

// Call sends r.
func (c caller) Call(r *http.Request, _ *http.Transport) (*http.Response, error) { return c.http.Do(r) }

// store is the Provider.
type store struct {
	*providers.Gate
	client *openapi.Client
	region string
}

// Fetch reads a secret parameter, decrypted: its newest version, unless q asks for another.
func (s *store) Fetch(ctx context.Context, q providers.Query) (providers.Payload, error) {
	if err := s.Enter(ctx, q); err != nil {
		return providers.Payload{}, err
	}
	if !providers.ConsistsOf(q.Name, 200, "-_/.") {
		return providers.Payload{}, providers.Errorf(providers.Invalid, "%.100q is not a name that a parameter can have", q.Name)
	}
	parameters := map[string]string{"Name": q.Name, "WithDecryption": "true"}
	if q.Version != "" {
		if n, err := strconv.ParseInt(q.Version, 10, 32); err != nil || n < 1 {
			return providers.Payload{}, providers.Errorf(providers.Invalid, "version %.100q is not a number", q.Version)
		}
		parameters["ParameterVersion"] = q.Version
	}
	body, err := s.call(ctx, "GetSecretParameter", parameters)
	if err != nil {
		return providers.Payload{}, failed(ctx, "oos:GetSecretParameter of "+q.Name, err)
	}
	parameter, _ := body["Parameter"].(map[string]any)
	value, ok := parameter["Value"].(string)
	if !ok {
		return providers.Payload{}, providers.Errorf(providers.Unavailable, "oos:GetSecretParameter of %s: no usable answer", q.Name)
	}
	return providers.Payload{
		Fields:  map[string]secret.Value{q.Name: secret.FromString(value)},
		Version: dara.ToString(parameter["ParameterVersion"]),
	}, nil
}

// List returns the names of the secret parameters below request metadata path, by default all.
func (s *store) List(ctx context.Context, q providers.Query) ([]string, error) {
	if err := s.Enter(ctx, q); err != nil {
		return nil, err
	}
	path := q.Metadata["path"]
	if path == "" {
		path = "/"
	}
	names := []string{}
	for next := ""; ; {
		parameters := map[string]string{"Path": path, "Recursive": "true", "WithDecryption": "false"}
		if next != "" {
			parameters["NextToken"] = next
		}
		body, err := s.call(ctx, "GetSecretParametersByPath", parameters)
		if err != nil {
			return nil, failed(ctx, "oos:GetSecretParametersByPath", err)
		}
		page, _ := body["Parameters"].([]any)
		for _, item := range page {
			parameter, _ := item.(map[string]any)
			if name, ok := parameter["Name"].(string); ok {
				names = append(names, name)
			}
		}
		if next, _ = body["NextToken"].(string); next == "" {
			break
		}
	}
	slices.Sort(names)
	return slices.Compact(names), nil
}

// call makes one call and returns the answer's members.
func (s *store) call(ctx context.Context, action string, parameters map[string]string) (map[string]any, error) {
	query := map[string]*string{"RegionId": &s.region}
	for name, value := range parameters {
		query[name] = &value
	}
	client := *s.client // a copy for each call, because a call writes to it
	answer, err := client.CallApiWithCtx(ctx, &utils.Params{
		Action: &action, Version: dara.String(apiVersion), Protocol: dara.String("HTTPS"), Method: dara.String(http.MethodPost), AuthType: dara.String("AK"),
		Style: dara.String("RPC"), Pathname: dara.String("/"), ReqBodyType: dara.String("json"), BodyType: dara.String("json"),
	}, &utils.OpenApiRequest{Query: query}, &dara.RuntimeOptions{Autoretry: dara.Bool(false), MaxAttempts: dara.Int(1)})
	if err != nil {
		return nil, err
	}
	body, _ := answer["body"].(map[string]any)
	return body, nil
}

// Interface guard.
var _ providers.Lister = (*store)(nil)
