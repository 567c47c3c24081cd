package polls

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"
)

// adminPage is a page of the admin: it knows who is looking at it, and that they may.
type adminPage func(w http.ResponseWriter, r *http.Request, viewer *User)

func (h *handler) staff(serve adminPage) http.HandlerFunc {
	return h.only(serve, func(u *User) bool { return u.Staff })
}

func (h *handler) superuser(serve adminPage) http.HandlerFunc {
	return h.only(serve, func(u *User) bool { return u.Superuser })
}

func (h *handler) only(serve adminPage, may func(*User) bool) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		viewer, err := h.viewer(r)
		switch {
		case err != nil:
			h.fail(w, r, err)
		case viewer == nil:
			back := "/admin/"
			if r.Method == http.MethodGet {
				back = r.URL.Path // A form cannot be sent again after the log-in.
			}
			h.toLogin(w, r, "/admin/login/", back)
		case !may(viewer):
			h.fail(w, r, &problem{Status: http.StatusForbidden, Message: "This part of the admin is not for this account."})
		default:
			serve(w, r, viewer)
		}
	}
}

func (h *handler) adminPolls(w http.ResponseWriter, r *http.Request, viewer *User) {
	polls, err := h.pollList(r.Context(), r, "/admin/")
	if err != nil {
		h.fail(w, r, err)
		return
	}
	v := h.view(r, "Admin", viewer)
	v.Data = polls
	h.render(w, r, http.StatusOK, "admin_polls", v)
}

func (h *handler) adminNewPollForm(w http.ResponseWriter, r *http.Request, viewer *User) {
	h.render(w, r, http.StatusOK, "new", h.newPollView(r, viewer, "/admin/polls/new/", "/admin/"))
}

func (h *handler) adminNewPollSubmit(w http.ResponseWriter, r *http.Request, viewer *User) {
	h.submitPoll(w, r, viewer, h.newPollView(r, viewer, "/admin/polls/new/", "/admin/"), "/admin/polls/%d/")
}

// moreChoices is how many empty rows the form of a poll offers.
const moreChoices = 3

// adminPoll is the form of a poll with its choices.
type adminPoll struct {
	Poll Poll
	Rows []choiceRow
	More []string // names of the empty fields
}

// choiceRow is one choice in the form.
type choiceRow struct {
	Choice
	Field, DeleteField string
}

func (h *handler) adminPollView(r *http.Request, viewer *User, p Poll) view {
	v := h.view(r, "Edit poll", viewer)
	data := adminPoll{Poll: p}
	v.Form.Values = map[string]string{"question": p.Question}
	for _, c := range p.Choices {
		row := choiceRow{Choice: c, Field: fmt.Sprintf("choice.%d", c.ID), DeleteField: fmt.Sprintf("delete.%d", c.ID)}
		v.Form.Values[row.Field] = c.Text
		data.Rows = append(data.Rows, row)
	}
	for i := range min(moreChoices, MaxChoices-len(p.Choices)) {
		data.More = append(data.More, fmt.Sprintf("add.%d", i+1))
	}
	v.Data = data
	return v
}

func (h *handler) adminPollForm(w http.ResponseWriter, r *http.Request, viewer *User) {
	p, err := h.pathPoll(r)
	if err != nil {
		h.fail(w, r, err)
		return
	}
	h.render(w, r, http.StatusOK, "admin_poll", h.adminPollView(r, viewer, p))
}

func (h *handler) adminPollSubmit(w http.ResponseWriter, r *http.Request, viewer *User) {
	p, err := h.pathPoll(r)
	if err == nil {
		err = readForm(w, r)
	}
	if err != nil {
		h.fail(w, r, err)
		return
	}
	v := h.adminPollView(r, viewer, p)
	data := v.Data.(adminPoll)
	edit := PollEdit{Question: r.PostForm.Get("question"), Texts: map[int64]string{}}
	fields := []string{"question"}
	for _, row := range data.Rows {
		fields = append(fields, row.Field, row.DeleteField)
		switch {
		case r.PostForm.Has(row.DeleteField):
			edit.Delete = append(edit.Delete, row.ID)
		case r.PostForm.Has(row.Field): // A choice that came after the form was shown is not in it, and stays.
			edit.Texts[row.ID] = r.PostForm.Get(row.Field)
		}
	}
	var added []string
	for _, name := range data.More {
		fields = append(fields, name)
		if text := r.PostForm.Get(name); strings.TrimSpace(text) != "" {
			edit.Add, added = append(edit.Add, text), append(added, name)
		}
	}
	if err := h.store.EditPoll(r.Context(), p.ID, edit); err != nil {
		h.again(w, r, renumber(err, "add.", added), "admin_poll", v, fields...)
		return
	}
	h.redirect(w, r, fmt.Sprintf("/admin/polls/%d/", p.ID), "saved")
}

func (h *handler) adminPollDelete(w http.ResponseWriter, r *http.Request, _ *User) {
	id, err := pathID(r, "id")
	if err == nil {
		err = h.store.DeletePoll(r.Context(), id)
	}
	if err != nil {
		h.fail(w, r, err)
		return
	}
	h.redirect(w, r, "/admin/", "deleted")
}

// userList is a page of users.
type userList struct {
	Users []User
	Next  string // the name to go on behind, if there are more
}

func (h *handler) adminUsers(w http.ResponseWriter, r *http.Request, viewer *User) {
	after := r.URL.Query().Get("after")
	if after != "" && CheckUsername(after) != "" {
		h.fail(w, r, &problem{Status: http.StatusBadRequest, Message: "This list goes on behind a username.", Field: "after"})
		return
	}
	all, err := h.store.Users(r.Context(), after, pageSize+1)
	if err != nil {
		h.fail(w, r, err)
		return
	}
	data := userList{Users: all}
	if len(all) > pageSize {
		data = userList{Users: all[:pageSize], Next: all[pageSize-1].Username}
	}
	v := h.view(r, "Users", viewer)
	v.Data = data
	h.render(w, r, http.StatusOK, "admin_users", v)
}

func (h *handler) adminNewUserForm(w http.ResponseWriter, r *http.Request, viewer *User) {
	h.render(w, r, http.StatusOK, "admin_new_user", h.view(r, "New user", viewer))
}

func (h *handler) adminNewUserSubmit(w http.ResponseWriter, r *http.Request, viewer *User) {
	if err := readForm(w, r); err != nil {
		h.fail(w, r, err)
		return
	}
	_, err := h.store.CreateUser(r.Context(), NewUser{
		Username: r.PostForm.Get("username"), Email: r.PostForm.Get("email"), Password: r.PostForm.Get("password"),
		Staff: r.PostForm.Has("staff"), Superuser: r.PostForm.Has("superuser"),
	})
	if err != nil {
		h.again(w, r, err, "admin_new_user", h.view(r, "New user", viewer), "username", "email", "staff", "superuser")
		return
	}
	h.redirect(w, r, "/admin/users/", "user")
}

func (h *handler) adminUserView(r *http.Request, viewer *User) (view, User, error) {
	v := h.view(r, "User", viewer)
	id, err := pathID(r, "id")
	if err != nil {
		return v, User{}, err
	}
	u, err := h.store.User(r.Context(), id)
	v.Data = u
	return v, u, err
}

func (h *handler) adminUserForm(w http.ResponseWriter, r *http.Request, viewer *User) {
	v, _, err := h.adminUserView(r, viewer)
	if err != nil {
		h.fail(w, r, err)
		return
	}
	h.render(w, r, http.StatusOK, "admin_user", v)
}

func (h *handler) adminUserRoles(w http.ResponseWriter, r *http.Request, viewer *User) {
	v, u, err := h.adminUserView(r, viewer)
	if err == nil {
		err = readForm(w, r)
	}
	if err != nil {
		h.fail(w, r, err)
		return
	}
	if err := h.store.SetRoles(r.Context(), u.ID, r.PostForm.Has("staff"), r.PostForm.Has("superuser")); err != nil {
		h.again(w, r, err, "admin_user", v)
		return
	}
	h.redirect(w, r, userPath(u), "saved")
}

func (h *handler) adminUserPassword(w http.ResponseWriter, r *http.Request, viewer *User) {
	v, u, err := h.adminUserView(r, viewer)
	if err == nil {
		err = readForm(w, r)
	}
	if err != nil {
		h.fail(w, r, err)
		return
	}
	err = h.store.SetPassword(r.Context(), u.ID, r.PostForm.Get("password"))
	if err == nil && u.ID == viewer.ID {
		err = h.logIn(w, r, u) // The new password has ended the session that this request came with.
	}
	if err != nil {
		h.again(w, r, err, "admin_user", v)
		return
	}
	h.redirect(w, r, userPath(u), "password")
}

func userPath(u User) string { return "/admin/users/" + strconv.FormatInt(u.ID, 10) + "/" }

func (h *handler) adminPlans(w http.ResponseWriter, r *http.Request, viewer *User) {
	plans, err := h.store.Plans(r.Context())
	if err != nil {
		h.fail(w, r, err)
		return
	}
	v := h.view(r, "Plans", viewer)
	v.Data = plans
	h.render(w, r, http.StatusOK, "admin_plans", v)
}
