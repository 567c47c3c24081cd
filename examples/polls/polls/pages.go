package polls

import (
	"cmp"
	"context"
	"embed"
	"errors"
	"fmt"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/tenement-go/tenement/examples/polls/page"
)

//go:embed templates/*.html
var templateFiles embed.FS

// view is what every page is rendered with.
type view struct {
	page.Frame
	Viewer *User  // who is logged in, if anybody
	Here   string // the path of the page, to come back to
	Form   page.Form
	Data   any // what the page is about
}

// notices are what a redirect can say: only the code is in the URL, so that a link cannot put words into the site's mouth.
var notices = map[string]string{
	"voted":    "Your vote has been counted.",
	"created":  "The poll is open.",
	"saved":    "The changes have been saved.",
	"deleted":  "The poll has been deleted.",
	"user":     "The user has been added.",
	"password": "The password has been changed. The user is logged out everywhere.",
	"welcome":  "Welcome! You are logged in.",
	"loggedin": "You are logged in.",
	"bye":      "You are logged out.",
}

func (h *handler) view(r *http.Request, title string, viewer *User) view {
	ctx := r.Context()
	return view{
		Frame: page.Frame{
			Title:  title,
			Site:   h.cfg.Site(ctx).Name,
			Notice: notices[r.URL.Query().Get("notice")],
			Link:   func(path string) string { return h.cfg.URL(ctx, path) },
		},
		Viewer: viewer,
		Here:   r.URL.Path,
	}
}

func (h *handler) render(w http.ResponseWriter, r *http.Request, status int, name string, v view) {
	if err := h.pages.Render(w, status, name, v); err != nil {
		h.cfg.Logger.ErrorContext(r.Context(), "polls: page cannot be rendered", "page", name, "error", err)
		http.Error(w, "Something went wrong on our side.", http.StatusInternalServerError)
	}
}

func (h *handler) failPage(w http.ResponseWriter, r *http.Request, p *problem) {
	viewer, err := h.viewer(r)
	if err != nil {
		viewer = nil // The error page must come out even when the database does not answer.
	}
	v := h.view(r, http.StatusText(p.Status), viewer)
	v.Notice = ""
	v.Data = p
	h.render(w, r, p.Status, "error", v)
}

// redirect sends the browser to a page, with a notice unless it is "".
func (h *handler) redirect(w http.ResponseWriter, r *http.Request, path, notice string) {
	target := h.cfg.URL(r.Context(), path)
	if notice != "" {
		target += "?notice=" + notice
	}
	http.Redirect(w, r, target, http.StatusSeeOther)
}

// readForm reads a form that was sent.
func readForm(w http.ResponseWriter, r *http.Request) error {
	if mediaType, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || mediaType != "application/x-www-form-urlencoded" {
		return &problem{Status: http.StatusUnsupportedMediaType, Message: "Send a form, with Content-Type: application/x-www-form-urlencoded."}
	}
	r.Body = http.MaxBytesReader(w, r.Body, maxBody)
	return bodyError(r.ParseForm())
}

// formOf is a form to be shown again with what is wrong in it, and the status of the answer. An error that is not about
// what was entered comes back.
func formOf(r *http.Request, err error, fields ...string) (page.Form, int, error) {
	form := page.Form{Values: map[string]string{}, Errors: map[string]string{}}
	for _, name := range fields {
		form.Values[name] = r.PostForm.Get(name)
	}
	var invalid Invalid
	if errors.As(err, &invalid) {
		for _, f := range invalid {
			form.Errors[f.Field] = f.Message
		}
		return form, http.StatusUnprocessableEntity, nil
	}
	p := explain(err)
	if p.Status == http.StatusInternalServerError || p.Status == http.StatusNotFound {
		return form, 0, err
	}
	if p.Field != "" {
		form.Errors[p.Field] = p.Message
	} else {
		form.Problem = p.Message
	}
	return form, p.Status, nil
}

// again shows a form again after err.
func (h *handler) again(w http.ResponseWriter, r *http.Request, err error, name string, v view, fields ...string) {
	form, status, err := formOf(r, h.named(err), fields...)
	if err != nil {
		h.fail(w, r, err)
		return
	}
	v.Form = form
	h.render(w, r, status, name, v)
}

func (h *handler) home(w http.ResponseWriter, r *http.Request) {
	http.Redirect(w, r, h.cfg.URL(r.Context(), "/polls/"), http.StatusFound)
}

// pollList is a page of polls.
type pollList struct {
	Polls []Poll
	Older string // the link to the next page, if there is one
}

func (h *handler) pollList(ctx context.Context, r *http.Request, path string) (pollList, error) {
	before, _, err := pageOf(url.Values{"before": r.URL.Query()["before"]})
	if err != nil {
		return pollList{}, err
	}
	all, err := h.store.Polls(ctx, before, pageSize+1)
	if err != nil {
		return pollList{}, err
	}
	list := pollList{Polls: all}
	if len(all) > pageSize {
		list.Polls = all[:pageSize]
		list.Older = h.cfg.URL(ctx, path) + "?before=" + strconv.FormatInt(all[pageSize-1].ID, 10)
	}
	return list, nil
}

func (h *handler) list(w http.ResponseWriter, r *http.Request) {
	viewer, err := h.viewer(r)
	if err != nil {
		h.fail(w, r, err)
		return
	}
	polls, err := h.pollList(r.Context(), r, "/polls/")
	if err != nil {
		h.fail(w, r, err)
		return
	}
	v := h.view(r, "Polls", viewer)
	v.Data = polls
	h.render(w, r, http.StatusOK, "list", v)
}

// pollPage is a poll as one viewer sees it.
type pollPage struct {
	Poll
	Mine  int64 // the choice that the viewer voted for, or 0
	Chart []bar
}

// bar is one choice in the chart.
type bar struct {
	Choice
	Ahead bool   // no other choice has more votes
	Mine  bool   // the viewer voted for it
	Share int64  // in percent; all shares together are 100
	Width string // of the bar, in percent of the chart
}

func chartOf(p Poll, mine int64) []bar {
	var most int64
	votes := make([]int64, len(p.Choices))
	for i, c := range p.Choices {
		most, votes[i] = max(most, c.Votes), c.Votes
	}
	percent := shares(votes)
	bars := make([]bar, len(p.Choices))
	for i, c := range p.Choices {
		width := "0%"
		if p.Votes > 0 {
			width = strconv.FormatFloat(100*float64(c.Votes)/float64(p.Votes), 'f', 2, 64) + "%"
		}
		bars[i] = bar{Choice: c, Ahead: most > 0 && c.Votes == most, Mine: c.ID == mine, Share: percent[i], Width: width}
	}
	return bars
}

// shares are the votes in percent, in whole numbers that add up to 100: each is rounded down, and what is missing goes to
// those who lost most by it (the method of the largest remainder). Without votes all are 0.
func shares(votes []int64) []int64 {
	percent := make([]int64, len(votes))
	var all int64
	for _, n := range votes {
		all += n
	}
	if all == 0 {
		return percent
	}
	missing := int64(100)
	order := make([]int, len(votes))
	for i, n := range votes {
		percent[i], order[i] = 100*n/all, i
		missing -= percent[i]
	}
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(100*votes[b]%all, 100*votes[a]%all) })
	for _, i := range order[:missing] {
		percent[i]++
	}
	return percent
}

func (h *handler) show(w http.ResponseWriter, r *http.Request) { h.showPoll(w, r, "") }

// showPoll shows a poll, and what was wrong with a vote on it.
func (h *handler) showPoll(w http.ResponseWriter, r *http.Request, wrong string) {
	viewer, err := h.viewer(r)
	if err != nil {
		h.fail(w, r, err)
		return
	}
	p, err := h.pathPoll(r)
	if err != nil {
		h.fail(w, r, err)
		return
	}
	var mine int64
	if viewer != nil {
		if mine, err = h.store.VoteOf(r.Context(), p.ID, viewer.ID); err != nil {
			h.fail(w, r, err)
			return
		}
	}
	v := h.view(r, p.Question, viewer)
	v.Here = fmt.Sprintf("/polls/%d/", p.ID)
	v.Data = pollPage{Poll: p, Mine: mine, Chart: chartOf(p, mine)}
	status := http.StatusOK
	if wrong != "" {
		v.Form.Problem, status = wrong, http.StatusUnprocessableEntity
	}
	h.render(w, r, status, "poll", v)
}

func (h *handler) voteSubmit(w http.ResponseWriter, r *http.Request) {
	viewer, err := h.viewer(r)
	if err != nil {
		h.fail(w, r, err)
		return
	}
	id, err := pathID(r, "id")
	if err != nil {
		h.fail(w, r, err)
		return
	}
	here := fmt.Sprintf("/polls/%d/", id)
	if viewer == nil {
		h.toLogin(w, r, "/login/", here)
		return
	}
	if err := readForm(w, r); err != nil {
		h.fail(w, r, err)
		return
	}
	choice, err := strconv.ParseInt(r.PostForm.Get("choice"), 10, 64)
	if err != nil {
		h.showPoll(w, r, "Pick one of the choices first.")
		return
	}
	if err := h.store.Vote(r.Context(), id, choice, viewer.ID); err != nil {
		h.fail(w, r, err)
		return
	}
	h.redirect(w, r, here, "voted")
}

// newPollRows is how many empty choices a form for a new poll offers. Those left empty do not count.
const newPollRows = 6

// newPollPage is the form for a new poll.
type newPollPage struct {
	Rows   []string // names of the fields for choices
	Action string
	Back   string
}

func (h *handler) newPollView(r *http.Request, viewer *User, path, back string) view {
	v := h.view(r, "New poll", viewer)
	data := newPollPage{Action: path, Back: back}
	for i := range newPollRows {
		data.Rows = append(data.Rows, fmt.Sprintf("choices.%d", i+1))
	}
	v.Data = data
	return v
}

func (h *handler) newPollForm(w http.ResponseWriter, r *http.Request) {
	viewer, err := h.viewer(r)
	switch {
	case err != nil:
		h.fail(w, r, err)
	case viewer == nil:
		h.toLogin(w, r, "/login/", r.URL.Path)
	default:
		h.render(w, r, http.StatusOK, "new", h.newPollView(r, viewer, "/polls/new/", "/polls/"))
	}
}

func (h *handler) newPollSubmit(w http.ResponseWriter, r *http.Request) {
	viewer, err := h.viewer(r)
	switch {
	case err != nil:
		h.fail(w, r, err)
	case viewer == nil:
		h.toLogin(w, r, "/login/", r.URL.Path)
	default:
		h.submitPoll(w, r, viewer, h.newPollView(r, viewer, "/polls/new/", "/polls/"), "/polls/%d/")
	}
}

// submitPoll makes a poll of a form and sends the browser to the page of it.
func (h *handler) submitPoll(w http.ResponseWriter, r *http.Request, viewer *User, v view, then string) {
	if err := readForm(w, r); err != nil {
		h.fail(w, r, err)
		return
	}
	fields := []string{"question"}
	var choices, from []string // The choices that are not empty, and the fields they come from.
	for _, name := range v.Data.(newPollPage).Rows {
		fields = append(fields, name)
		if text := r.PostForm.Get(name); strings.TrimSpace(text) != "" {
			choices, from = append(choices, text), append(from, name)
		}
	}
	question := r.PostForm.Get("question")
	if len(choices) < 2 {
		err := check(
			FieldError{"question", cleanText(&question, "a question", MaxQuestion)},
			FieldError{fmt.Sprintf("choices.%d", len(choices)+1), "Give people at least two choices."},
		)
		h.again(w, r, err, "new", v, fields...)
		return
	}
	p, err := h.store.CreatePoll(r.Context(), *viewer, question, choices...)
	if err != nil {
		h.again(w, r, renumber(err, "choices.", from), "new", v, fields...)
		return
	}
	h.redirect(w, r, fmt.Sprintf(then, p.ID), "created")
}

// renumber gives the fields of an Invalid back the names that they have in the form: the store counts what it was given
// from 1, and empty rows of the form are not given to it.
func renumber(err error, prefix string, names []string) error {
	var invalid Invalid
	if !errors.As(err, &invalid) {
		return err
	}
	shown := make(Invalid, len(invalid))
	for i, f := range invalid {
		if number, ok := strings.CutPrefix(f.Field, prefix); ok {
			if n, err := strconv.Atoi(number); err == nil && n >= 1 && n <= len(names) {
				f.Field = names[n-1]
			}
		}
		shown[i] = f
	}
	return shown
}
