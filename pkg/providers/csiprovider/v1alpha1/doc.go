// Package v1alpha1 is the protocol between the Secrets Store CSI driver and its providers, generated from provider.proto.
package v1alpha1

//go:generate protoc -I ../../../.. --go_out=../../../.. --go_opt=paths=source_relative --go-grpc_out=../../../.. --go-grpc_opt=paths=source_relative pkg/providers/csiprovider/v1alpha1/provider.proto
