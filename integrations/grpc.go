package integrations

import (
	"context"
	"errors"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/tenement-go/tenement/tenancy"
)

// GRPCUnary puts the tenant that a call is meant for into its context. It goes by the authority, the host that the client
// dialled, as package httpx goes by the host.
func GRPCUnary(app *tenancy.App) grpc.UnaryServerInterceptor {
	return func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
		ctx, leave, err := enter(ctx, app)
		if err != nil {
			return nil, err
		}
		defer leave()
		return next(ctx, req)
	}
}

// GRPCStream is GRPCUnary for streams. A stream's context ends when its tenant goes out of service.
func GRPCStream(app *tenancy.App) grpc.StreamServerInterceptor {
	return func(srv any, stream grpc.ServerStream, _ *grpc.StreamServerInfo, next grpc.StreamHandler) error {
		ctx, leave, err := enter(stream.Context(), app)
		if err != nil {
			return err
		}
		defer leave()
		return next(srv, tenantStream{stream, ctx})
	}
}

type tenantStream struct {
	grpc.ServerStream
	ctx context.Context
}

func (s tenantStream) Context() context.Context { return s.ctx }

// directory is what is asked of the *tenancy.App.
type directory interface {
	Resolve(ctx context.Context, host string) (*tenancy.Tenant, error)
	Enter(ctx context.Context, who tenancy.Referrer, p tenancy.Policy) (context.Context, *tenancy.Tenant, context.CancelFunc, error)
}

var _ directory = (*tenancy.App)(nil)

// maxLookups is how often one call is looked up at most.
const maxLookups = 4

func enter(ctx context.Context, app directory) (context.Context, context.CancelFunc, error) {
	md, _ := metadata.FromIncomingContext(ctx)
	host := append(md.Get(":authority"), "")[0]
	for range maxLookups {
		found, err := app.Resolve(ctx, host)
		if err != nil {
			return ctx, nil, grpcError(err)
		}
		inside, t, leave, err := app.Enter(ctx, found, tenancy.Policy{})
		if err != nil {
			return ctx, nil, grpcError(err)
		}
		if t == found {
			return inside, leave, nil
		}
		leave() // a change of it was heard of since: the host may lead to another by now
	}
	return ctx, nil, grpcError(tenancy.ErrUnavailable)
}

// grpcError says no more than the caller may know.
func grpcError(err error) error {
	switch {
	case errors.Is(err, tenancy.ErrNotFound), errors.Is(err, tenancy.ErrMalformedHost):
		return status.Error(codes.NotFound, "there is no such tenant")
	case errors.Is(err, tenancy.ErrNotActive), errors.Is(err, tenancy.ErrBehind), errors.Is(err, tenancy.ErrUnavailable):
		return status.Error(codes.Unavailable, "the tenant is not in service at the moment")
	}
	return status.Error(codes.Internal, "the tenant could not be found out")
}
