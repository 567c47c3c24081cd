package integrations

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"connectrpc.com/connect"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/crypto/acme"
	"golang.org/x/crypto/acme/autocert"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/tenement-go/tenement/tenancy"
)

// shelf answers with the titles of an author in the tenant that its context is in.
type shelf struct{ lib Library }

func (s shelf) titles(ctx context.Context, author string) (*wrapperspb.StringValue, error) {
	titles, err := s.lib.Titles(ctx, author)
	return wrapperspb.String(strings.Join(titles, ", ")), err
}

// fill gives thor and potter a book each.
func fill(t *testing.T, app *tenancy.App) (shelf, map[string]string) {
	t.Helper()
	lib := NewSquirrel(app)
	want := map[string]string{"thor": "Lavinia", "potter": "Orsinia"}
	for slug, title := range want {
		require.NoError(t, lib.Add(tenant(t, app, slug), "Ursula", title))
	}
	return shelf{lib}, want
}

// What protoc would generate for a service with a unary call and a stream.
var shelves = grpc.ServiceDesc{
	ServiceName: "library.Shelves",
	HandlerType: (*any)(nil),
	Methods: []grpc.MethodDesc{{
		MethodName: "Titles",
		Handler: func(srv any, ctx context.Context, dec func(any) error, interceptor grpc.UnaryServerInterceptor) (any, error) {
			in := new(wrapperspb.StringValue)
			if err := dec(in); err != nil {
				return nil, err
			}
			return interceptor(ctx, in, &grpc.UnaryServerInfo{Server: srv}, func(ctx context.Context, req any) (any, error) {
				return srv.(shelf).titles(ctx, req.(*wrapperspb.StringValue).Value)
			})
		},
	}},
	Streams: []grpc.StreamDesc{{
		StreamName: "Watch", ServerStreams: true, ClientStreams: true,
		Handler: func(srv any, stream grpc.ServerStream) error {
			in := new(wrapperspb.StringValue)
			for stream.RecvMsg(in) == nil {
				out, err := srv.(shelf).titles(stream.Context(), in.Value)
				if err != nil {
					return err
				}
				if err := stream.SendMsg(out); err != nil {
					return err
				}
			}
			return nil
		},
	}},
}

func TestGRPC(t *testing.T) {
	onBoth(t, func(t *testing.T, app *tenancy.App) {
		service, want := fill(t, app)
		listener := bufconn.Listen(1 << 16)
		server := grpc.NewServer(grpc.UnaryInterceptor(GRPCUnary(app)), grpc.StreamInterceptor(GRPCStream(app)))
		server.RegisterService(&shelves, service)
		go func() { _ = server.Serve(listener) }()
		t.Cleanup(server.Stop)
		dial := func(host string) *grpc.ClientConn {
			conn, err := grpc.NewClient("passthrough:///library", grpc.WithAuthority(host),
				grpc.WithTransportCredentials(insecure.NewCredentials()),
				grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return listener.DialContext(ctx) }))
			require.NoError(t, err)
			t.Cleanup(func() { _ = conn.Close() })
			return conn
		}
		out := new(wrapperspb.StringValue)
		for range 2 {
			for slug, titles := range want {
				conn := dial(slug + ".library.local")
				require.NoError(t, conn.Invoke(t.Context(), "/library.Shelves/Titles", wrapperspb.String("Ursula"), out))
				assert.Equal(t, titles, out.Value)
				stream, err := conn.NewStream(t.Context(), &shelves.Streams[0], "/library.Shelves/Watch")
				require.NoError(t, err)
				for range 2 {
					require.NoError(t, stream.SendMsg(wrapperspb.String("Ursula")))
					require.NoError(t, stream.RecvMsg(out))
					assert.Equal(t, titles, out.Value)
				}
				require.NoError(t, stream.CloseSend())
			}
		}
		err := dial("odin.library.local").Invoke(t.Context(), "/library.Shelves/Titles", wrapperspb.String("Ursula"), out)
		assert.Equal(t, codes.NotFound, status.Code(err), "%v", err)
	})
}

// moving hears that the host leads to another tenant between a look-up and the entry.
type moving struct {
	*tenancy.App
	move func()
}

func (m *moving) Enter(ctx context.Context, who tenancy.Referrer, p tenancy.Policy) (context.Context, *tenancy.Tenant, context.CancelFunc, error) {
	m.move()
	return m.App.Enter(ctx, who, p)
}

func TestGRPCHostMovesMeanwhile(t *testing.T) {
	onBoth(t, func(t *testing.T, app *tenancy.App) {
		fill(t, app)
		potter, err := app.BySlug(t.Context(), "potter")
		require.NoError(t, err)
		moved := sync.OnceFunc(func() {
			_, err := app.MoveDomain(t.Context(), "thor.library.local", potter.ID)
			assert.NoError(t, err)
		})
		call := metadata.NewIncomingContext(t.Context(), metadata.Pairs(":authority", "thor.library.local"))
		ctx, leave, err := enter(call, &moving{app, moved})
		require.NoError(t, err)
		defer leave()
		in, ok := tenancy.From(ctx)
		require.True(t, ok)
		assert.Equal(t, potter.ID, in.ID)
	})
}

func TestConnect(t *testing.T) {
	onBoth(t, func(t *testing.T, app *tenancy.App) {
		service, want := fill(t, app)
		mux := http.NewServeMux()
		mux.Handle("/library.Shelves/Titles", connect.NewUnaryHandler("/library.Shelves/Titles",
			func(ctx context.Context, req *connect.Request[wrapperspb.StringValue]) (*connect.Response[wrapperspb.StringValue], error) {
				out, err := service.titles(ctx, req.Msg.Value)
				return connect.NewResponse(out), err
			}))
		server := httptest.NewServer(ConnectMiddleware(app)(mux))
		t.Cleanup(server.Close)
		ask := func(slug string) (string, error) {
			// Each tenant has an address of its own; here they all lead to the one server.
			client := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				return new(net.Dialer).DialContext(ctx, "tcp", server.Listener.Addr().String())
			}, DisableKeepAlives: true}}
			out, err := connect.NewClient[wrapperspb.StringValue, wrapperspb.StringValue](client, "http://"+slug+".library.local/library.Shelves/Titles").
				CallUnary(t.Context(), connect.NewRequest(wrapperspb.String("Ursula")))
			if err != nil {
				return "", err
			}
			return out.Msg.Value, nil
		}
		for range 2 {
			for slug, titles := range want {
				got, err := ask(slug)
				require.NoError(t, err)
				assert.Equal(t, titles, got)
			}
		}
		_, err := ask("odin")
		assert.Equal(t, connect.CodeNotFound, connect.CodeOf(err), "%v", err)
	})
}

// autocert asks for certificates of hosts that lead to a tenant, and of no others.
func TestAutocert(t *testing.T) {
	onBoth(t, func(t *testing.T, app *tenancy.App) {
		tenant(t, app, "thor")
		var asked atomic.Int64
		authority := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			asked.Add(1)
			http.Error(w, "not today", http.StatusNotFound)
		}))
		t.Cleanup(authority.Close)
		manager := &autocert.Manager{
			Prompt:     autocert.AcceptTOS,
			HostPolicy: app.HostPolicy,
			Client:     &acme.Client{DirectoryURL: authority.URL},
		}
		_, err := manager.GetCertificate(&tls.ClientHelloInfo{ServerName: "odin.library.local"})
		require.ErrorIs(t, err, tenancy.ErrNotFound)
		require.Zero(t, asked.Load())
		_, err = manager.GetCertificate(&tls.ClientHelloInfo{ServerName: "thor.library.local"})
		require.Error(t, err, "the authority refuses")
		require.NotErrorIs(t, err, tenancy.ErrNotFound)
		require.NotZero(t, asked.Load())
	})
}
