package browsertest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/chromedp"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tenement-go/tenement/internal/pgtest"
)

// patience is how long one step may take before the test gives up on it. It is no measure of anything: a step goes on as
// soon as the page is there.
const patience = 90 * time.Second

// chromium starts a headless browser with a fresh profile, for all visitors of a test, and returns its context. Where
// none is installed the test is skipped, unless everything that the tests need is asked for.
func chromium(t *testing.T) context.Context {
	t.Helper()
	var program string
	for _, name := range []string{
		"chromium", "chromium-browser", "google-chrome",
		"/Applications/Chromium.app/Contents/MacOS/Chromium",
		"/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
	} {
		if found, err := exec.LookPath(name); err == nil {
			program = found
			break
		}
	}
	if program == "" {
		const remedy = "Chromium is not installed: make deps, or apt-get install chromium"
		require.NotEqual(t, "1", os.Getenv(pgtest.EnvRequire), remedy)
		t.Skip(remedy)
	}
	options := append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.ExecPath(program),
		chromedp.NoSandbox, // It visits nothing but the server of the test, and a container has no sandbox to offer.
		chromedp.DisableGPU,
		chromedp.Flag("disable-quic", true),
		chromedp.Flag("disable-component-update", true),
		chromedp.Flag("no-proxy-server", true),
		chromedp.WSURLReadTimeout(patience),
	)
	allocator, release := chromedp.NewExecAllocator(context.Background(), options...)
	ctx, cancel := chromedp.NewContext(allocator)
	t.Cleanup(func() {
		end, stop := context.WithTimeout(ctx, patience)
		defer stop()
		if err := chromedp.Cancel(end); err != nil {
			t.Logf("the browser did not close by itself: %v", err)
		}
		cancel()
		release()
	})
	require.NoError(t, chromedp.Do(ctx), "start %s", program)
	return ctx
}

// visitor is somebody at a browser of their own: no cookie is shared with another one.
type visitor struct {
	t   *testing.T
	ctx context.Context

	mu       sync.Mutex
	refusals []string // what the browser refused to do for the page, by its content security policy or otherwise
}

func visit(t *testing.T, browser context.Context, scripts bool) *visitor {
	t.Helper()
	ctx, cancel := chromedp.NewContext(browser, chromedp.WithNewBrowserContext())
	t.Cleanup(cancel)
	v := &visitor{t: t, ctx: ctx}
	require.NoError(t, chromedp.Listen(ctx, func(event any) {
		if e, ok := event.(*log.EventEntryAdded); ok && (e.Entry.Source == log.EntrySourceSecurity || e.Entry.Source == log.EntrySourceJavascript) {
			v.mu.Lock()
			defer v.mu.Unlock()
			v.refusals = append(v.refusals, e.Entry.Text)
		}
	}))
	t.Cleanup(func() {
		v.mu.Lock()
		defer v.mu.Unlock()
		assert.Empty(t, v.refusals, "what the browser refused")
	})
	require.NoError(t, chromedp.Do(ctx, chromedp.EmulateViewport(1120, 720)))
	// The bars of a chart grow; whoever asks for less motion gets them as they are in the end.
	_, err := chromedp.Call(ctx, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{Features: []*emulation.MediaFeature{
		{Name: "prefers-reduced-motion", Value: "reduce"}, {Name: "prefers-color-scheme", Value: "light"},
	}})
	require.NoError(t, err)
	_, err = chromedp.Call(ctx, emulation.SetScriptExecutionDisabled, emulation.SetScriptExecutionDisabledParams{Value: !scripts})
	require.NoError(t, err)

	// A page with a script tells whether they run, so that "without JavaScript" is not taken on trust.
	v.open(`data:text/html,<title>off</title><script>document.title = "on"</script>`)
	want := map[bool]string{true: "on", false: "off"}
	assert.Equal(t, want[scripts], do(v, "read the title", chromedp.Title()), "JavaScript")
	return v
}

// do runs one action and ends the test when it fails, with the page that it failed on.
func do[T any](v *visitor, what string, action chromedp.Action[T]) T {
	v.t.Helper()
	ctx, cancel := context.WithTimeout(v.ctx, patience)
	defer cancel()
	result, err := chromedp.Run(ctx, action)
	v.check(what, err)
	return result
}

func (v *visitor) check(what string, err error) {
	v.t.Helper()
	if err == nil {
		return
	}
	ctx, cancel := context.WithTimeout(v.ctx, patience)
	defer cancel()
	address, addressErr := chromedp.Run(ctx, chromedp.Location())
	text, textErr := chromedp.Run(ctx, chromedp.Text("body"))
	require.NoError(v.t, err, "%s, on %s %v:\n%s", what, address, errors.Join(addressErr, textErr), text)
}

// open goes to an address and returns the status of the page, 0 for one that did not come from a server.
func (v *visitor) open(address string) int {
	v.t.Helper()
	response := do(v, "open "+address, chromedp.NavigateResponse(address))
	if response == nil {
		return 0
	}
	return int(response.Status)
}

// follow clicks the link in the page with that text, waits for the page behind it and returns its status.
func (v *visitor) follow(text string) int {
	v.t.Helper()
	return v.click(fmt.Sprintf(`//main//a[normalize-space()=%q]`, text))
}

// press presses the button with that text, waits for the page that comes of it and returns its status.
func (v *visitor) press(text string) int {
	v.t.Helper()
	return v.click(fmt.Sprintf(`//main//button[normalize-space()=%q]`, text))
}

func (v *visitor) click(xpath string) int {
	v.t.Helper()
	ctx, cancel := context.WithTimeout(v.ctx, patience)
	defer cancel()
	response, err := chromedp.RunResponse(ctx, chromedp.Click(chromedp.Search(xpath), chromedp.NodeVisible))
	v.check("click "+xpath, err)
	require.NotNil(v.t, response, "click %s: nothing came of it", xpath)
	return int(response.Status)
}

// fill types a text into the input with that name.
func (v *visitor) fill(name, text string) {
	v.t.Helper()
	input := chromedp.CSS(fmt.Sprintf(`main input[name=%q]`, name))
	do(v, "fill in "+name, chromedp.Steps(chromedp.WaitVisible(input), chromedp.SendKeys(input, text)))
}

// choose clicks the radio button with that label.
func (v *visitor) choose(label string) {
	v.t.Helper()
	do(v, "choose "+label, chromedp.Click(chromedp.Search(fmt.Sprintf(`//main//label[normalize-space()=%q]`, label)), chromedp.NodeVisible))
}

// text returns what can be read in the page.
func (v *visitor) text() string {
	v.t.Helper()
	return do(v, "read the page", chromedp.Text(chromedp.CSS("main"), chromedp.NodeVisible))
}

// wide returns how wide, in pixels, the first element that the selector matches has been drawn.
func (v *visitor) wide(selector string) int64 {
	v.t.Helper()
	return do(v, "measure "+selector, chromedp.Dimensions(chromedp.CSS(selector))).Width
}

func (v *visitor) address() string {
	v.t.Helper()
	return do(v, "read the address", chromedp.Location())
}

// cookies returns what the browser would send to an address.
func (v *visitor) cookies(address string) []*network.Cookie {
	v.t.Helper()
	result, err := chromedp.Call(v.ctx, network.GetCookies, network.GetCookiesParams{URLs: []string{address}})
	require.NoError(v.t, err)
	return result.Cookies
}

// plant makes the browser send a cookie to an address that did not set it.
func (v *visitor) plant(cookie *network.Cookie, address string) {
	v.t.Helper()
	_, err := chromedp.Call(v.ctx, network.SetCookie, network.SetCookieParams{Name: cookie.Name, Value: cookie.Value, URL: address, Path: "/"})
	require.NoError(v.t, err)
}

// logIn fills in the form of the admin's log-in page, which must be open.
func (v *visitor) logIn(username, password string) int {
	v.t.Helper()
	v.fill("username", username)
	v.fill("password", password)
	return v.press("Log in")
}

// photograph saves what is in the window.
func (v *visitor) photograph(dir, name string) {
	v.t.Helper()
	picture := do(v, "take the picture "+name, chromedp.CaptureScreenshot())
	require.NoError(v.t, os.MkdirAll(dir, 0o755))
	require.NoError(v.t, os.WriteFile(filepath.Join(dir, name+".png"), picture, 0o644))
}
