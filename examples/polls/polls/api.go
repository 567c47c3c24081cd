package polls

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

type errorBody struct {
	Error errorDetail `json:"error"`
}

type errorDetail struct {
	Message string `json:"message"`
	Field   string `json:"field,omitempty"`
}

type userBody struct {
	ID       int64  `json:"id"`
	Username string `json:"username"`
	Email    string `json:"email"`
}

type tokenBody struct {
	Token     string    `json:"token"`
	ExpiresAt time.Time `json:"expires_at"`
}

type pollBody struct {
	ID        int64     `json:"id"`
	Question  string    `json:"question"`
	CreatedBy string    `json:"created_by"`
	CreatedAt time.Time `json:"created_at"`
	Votes     int64     `json:"votes"`
}

type pollDetailBody struct {
	pollBody
	Choices []choiceBody `json:"choices"`
}

type choiceBody struct {
	ID         int64  `json:"id"`
	Poll       int64  `json:"poll"`
	ChoiceText string `json:"choice_text"`
	Votes      int64  `json:"votes"`
}

type voteBody struct {
	Poll    int64  `json:"poll"`
	Choice  int64  `json:"choice"`
	VotedBy string `json:"voted_by"`
}

func bodyOf(p Poll) pollBody {
	return pollBody{ID: p.ID, Question: p.Question, CreatedBy: p.CreatorName, CreatedAt: p.CreatedAt, Votes: p.Votes}
}

func detailOf(p Poll) pollDetailBody { return pollDetailBody{bodyOf(p), choicesOf(p)} }

func choicesOf(p Poll) []choiceBody {
	all := make([]choiceBody, len(p.Choices)) // Not nil: an empty list is [], not null.
	for i, c := range p.Choices {
		all[i] = choiceBody{ID: c.ID, Poll: c.PollID, ChoiceText: c.Text, Votes: c.Votes}
	}
	return all
}

// tokenUser returns whose token the request carries; nil without a token. One that is not valid (here) is refused even
// where none is needed.
func (h *handler) tokenUser(r *http.Request) (*User, error) {
	header := r.Header.Get("Authorization")
	if header == "" {
		return nil, nil
	}
	scheme, token, _ := strings.Cut(header, " ")
	if !strings.EqualFold(scheme, "Token") {
		return nil, &problem{Status: http.StatusUnauthorized, Message: `Send the token of /login/ as "Authorization: Token …".`}
	}
	u, err := h.store.SignedIn(r.Context(), Token, strings.TrimSpace(token))
	if errors.Is(err, ErrNotFound) {
		return nil, &problem{Status: http.StatusUnauthorized, Message: "This token is not valid here, or not any more."}
	}
	return &u, err
}

// needToken is tokenUser where a token is required.
func (h *handler) needToken(r *http.Request) (*User, error) {
	u, err := h.tokenUser(r)
	if err == nil && u == nil {
		err = &problem{Status: http.StatusUnauthorized, Message: `This needs a token: POST /login/, then send "Authorization: Token …".`}
	}
	return u, err
}

// ownPoll returns the poll of the path, which the token's user has made.
func (h *handler) ownPoll(r *http.Request) (Poll, error) {
	u, err := h.needToken(r)
	if err != nil {
		return Poll{}, err
	}
	p, err := h.pathPoll(r)
	if err == nil && p.CreatorID != u.ID {
		err = &problem{Status: http.StatusForbidden, Message: "Only who made this poll may do that."}
	}
	return p, err
}

func (h *handler) pathPoll(r *http.Request) (Poll, error) {
	id, err := pathID(r, "id")
	if err != nil {
		return Poll{}, err
	}
	return h.store.Poll(r.Context(), id)
}

func (h *handler) apiSignUp(w http.ResponseWriter, r *http.Request) {
	var n NewUser
	err := readJSON(w, r, map[string]any{"username": &n.Username, "email": &n.Email, "password": &n.Password})
	if err != nil {
		h.fail(w, r, err)
		return
	}
	u, err := h.signUp(r, n)
	if err != nil {
		h.fail(w, r, err)
		return
	}
	writeJSON(w, http.StatusCreated, userBody{ID: u.ID, Username: u.Username, Email: u.Email})
}

func (h *handler) apiLogin(w http.ResponseWriter, r *http.Request) {
	var username, password string
	if err := readJSON(w, r, map[string]any{"username": &username, "password": &password}); err != nil {
		h.fail(w, r, err)
		return
	}
	err := check(required("username", username), required("password", password))
	if err != nil {
		h.fail(w, r, err)
		return
	}
	u, err := h.authenticate(r, username, password)
	if err != nil {
		h.fail(w, r, err)
		return
	}
	token, expires, err := h.store.CreateSignIn(r.Context(), Token, u.ID)
	if err != nil {
		h.fail(w, r, err)
		return
	}
	writeJSON(w, http.StatusOK, tokenBody{Token: token, ExpiresAt: expires.UTC().Truncate(time.Second)})
}

func required(field, value string) FieldError {
	if value == "" {
		return FieldError{field, "This is required."}
	}
	return FieldError{}
}

func (h *handler) apiPolls(w http.ResponseWriter, r *http.Request) {
	if _, err := h.tokenUser(r); err != nil {
		h.fail(w, r, err)
		return
	}
	before, limit, err := pageOf(r.URL.Query())
	if err != nil {
		h.fail(w, r, err)
		return
	}
	polls, err := h.store.Polls(r.Context(), before, limit+1) // One more tells whether there is a next page.
	if err != nil {
		h.fail(w, r, err)
		return
	}
	if len(polls) > limit {
		polls = polls[:limit]
		next := url.Values{"before": {strconv.FormatInt(polls[limit-1].ID, 10)}, "limit": {strconv.Itoa(limit)}}
		w.Header().Set("Link", fmt.Sprintf(`<%s?%s>; rel="next"`, h.cfg.URL(r.Context(), "/polls/"), next.Encode()))
	}
	bodies := make([]pollBody, len(polls))
	for i, p := range polls {
		bodies[i] = bodyOf(p)
	}
	writeJSON(w, http.StatusOK, bodies)
}

// pageOf reads which part of the list of polls is asked for.
func pageOf(query url.Values) (before int64, limit int, err error) {
	before, limit = FirstPage, maxPageSize
	if text := query.Get("before"); text != "" {
		if before, err = strconv.ParseInt(text, 10, 64); err != nil || before < 1 {
			return 0, 0, &problem{Status: http.StatusBadRequest, Message: "This must be the ID of a poll.", Field: "before"}
		}
	}
	if text := query.Get("limit"); text != "" {
		if limit, err = strconv.Atoi(text); err != nil || limit < 1 || limit > maxPageSize {
			return 0, 0, &problem{Status: http.StatusBadRequest, Message: fmt.Sprintf("This must be a number from 1 to %d.", maxPageSize), Field: "limit"}
		}
	}
	return before, limit, nil
}

func (h *handler) apiCreatePoll(w http.ResponseWriter, r *http.Request) {
	u, err := h.needToken(r)
	if err != nil {
		h.fail(w, r, err)
		return
	}
	var question string
	if err := readJSON(w, r, map[string]any{"question": &question}); err != nil {
		h.fail(w, r, err)
		return
	}
	p, err := h.store.CreatePoll(r.Context(), *u, question)
	if err != nil {
		h.fail(w, r, err)
		return
	}
	w.Header().Set("Location", h.cfg.URL(r.Context(), fmt.Sprintf("/polls/%d/", p.ID)))
	writeJSON(w, http.StatusCreated, detailOf(p))
}

func (h *handler) apiPoll(w http.ResponseWriter, r *http.Request) {
	h.answerPoll(w, r, func(p Poll) any { return detailOf(p) })
}

// answerPoll answers with what view makes of the poll in the path. Reading is public, but a token that is sent must be good.
func (h *handler) answerPoll(w http.ResponseWriter, r *http.Request, view func(Poll) any) {
	if _, err := h.tokenUser(r); err != nil {
		h.fail(w, r, err)
		return
	}
	p, err := h.pathPoll(r)
	if err != nil {
		h.fail(w, r, err)
		return
	}
	writeJSON(w, http.StatusOK, view(p))
}

func (h *handler) apiPutPoll(w http.ResponseWriter, r *http.Request)   { h.updatePoll(w, r, true) }
func (h *handler) apiPatchPoll(w http.ResponseWriter, r *http.Request) { h.updatePoll(w, r, false) }

// updatePoll changes a poll. Whole means that what is not sent is missing; else it stays as it is.
func (h *handler) updatePoll(w http.ResponseWriter, r *http.Request, whole bool) {
	p, err := h.ownPoll(r)
	if err != nil {
		h.fail(w, r, err)
		return
	}
	question := p.Question
	if whole {
		question = ""
	}
	if err := readJSON(w, r, map[string]any{"question": &question}); err != nil {
		h.fail(w, r, err)
		return
	}
	if err := h.store.SetQuestion(r.Context(), p.ID, question); err != nil {
		h.fail(w, r, err)
		return
	}
	if p, err = h.store.Poll(r.Context(), p.ID); err != nil {
		h.fail(w, r, err)
		return
	}
	writeJSON(w, http.StatusOK, detailOf(p))
}

func (h *handler) apiDeletePoll(w http.ResponseWriter, r *http.Request) {
	p, err := h.ownPoll(r)
	if err == nil {
		err = h.store.DeletePoll(r.Context(), p.ID)
	}
	if err != nil {
		h.fail(w, r, err)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

func (h *handler) apiChoices(w http.ResponseWriter, r *http.Request) {
	h.answerPoll(w, r, func(p Poll) any { return choicesOf(p) })
}

func (h *handler) apiAddChoice(w http.ResponseWriter, r *http.Request) {
	p, err := h.ownPoll(r)
	if err != nil {
		h.fail(w, r, err)
		return
	}
	var text string
	if err := readJSON(w, r, map[string]any{"choice_text": &text}); err != nil {
		h.fail(w, r, err)
		return
	}
	c, err := h.store.AddChoice(r.Context(), p.ID, text)
	if err != nil {
		h.fail(w, r, err)
		return
	}
	writeJSON(w, http.StatusCreated, choiceBody{ID: c.ID, Poll: c.PollID, ChoiceText: c.Text})
}

func (h *handler) apiVote(w http.ResponseWriter, r *http.Request) {
	u, err := h.needToken(r)
	if err != nil {
		h.fail(w, r, err)
		return
	}
	pollID, errPoll := pathID(r, "id")
	choiceID, errChoice := pathID(r, "choice")
	if err := errors.Join(errPoll, errChoice); err != nil {
		h.fail(w, r, err)
		return
	}
	// The path says it all. A body is not needed, and one that says something is a misunderstanding.
	if r.ContentLength != 0 || slices.Contains(r.TransferEncoding, "chunked") {
		if err := readJSON(w, r, nil); err != nil {
			h.fail(w, r, err)
			return
		}
	}
	if err := h.store.Vote(r.Context(), pollID, choiceID, u.ID); err != nil {
		h.fail(w, r, err)
		return
	}
	writeJSON(w, http.StatusCreated, voteBody{Poll: pollID, Choice: choiceID, VotedBy: u.Username})
}

// apiDescription serves the OpenAPI description. JSON is YAML, too: one file is both.
func (h *handler) apiDescription(contentType string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", contentType)
		_, _ = w.Write(openAPI)
	}
}
