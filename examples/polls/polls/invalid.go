package polls

import (
	"fmt"
	"net/mail"
	"regexp"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Limits of what people may enter, in characters (passwords: bytes, as they are hashed and not kept).
const (
	MaxUsername = 64
	MaxQuestion = 200
	MaxChoice   = 100
	MaxEmail    = 254
	MinPassword = 8
	MaxPassword = 256
	// MaxChoices is how many choices a poll may have.
	MaxChoices = 20
)

// A FieldError is one field that breaks a rule, with a message for whoever filled it in.
type FieldError struct {
	Field   string
	Message string
}

// Invalid is the error for input that breaks rules: at least one field, each at most once.
type Invalid []FieldError

// Error implements error.
func (e Invalid) Error() string {
	all := make([]string, len(e))
	for i, f := range e {
		all[i] = fmt.Sprintf("%s: %s", f.Field, f.Message)
	}
	return "polls: invalid input: " + strings.Join(all, "; ")
}

// check collects the messages that are not empty.
func check(fields ...FieldError) error {
	var invalid Invalid
	for _, f := range fields {
		if f.Message != "" {
			invalid = append(invalid, f)
		}
	}
	if invalid == nil {
		return nil
	}
	return invalid
}

// Names are lower case so that no two of them differ in case only; they are refused, not silently changed.
var usernameRule = regexp.MustCompile(`^[a-z0-9][a-z0-9@.+_-]*$`)

// CheckUsername returns what is wrong with a username, or "".
func CheckUsername(name string) string {
	switch {
	case name == "":
		return "Choose a username."
	case len(name) < 2 || len(name) > MaxUsername:
		return fmt.Sprintf("A username has 2 to %d characters.", MaxUsername)
	case !usernameRule.MatchString(name):
		return "Use lower-case letters, digits and @ . + - _ only, and begin with a letter or a digit."
	}
	return ""
}

// CheckPassword returns what is wrong with a password for the user of that name, or "".
func CheckPassword(username, password string) string {
	switch {
	case password == "":
		return "Choose a password."
	case utf8.RuneCountInString(password) < MinPassword:
		return fmt.Sprintf("A password has at least %d characters.", MinPassword)
	case len(password) > MaxPassword:
		return fmt.Sprintf("A password has at most %d bytes.", MaxPassword)
	case strings.EqualFold(password, username):
		return "The password must not be the username."
	case strings.Trim(password, "0123456789") == "":
		return "The password must not consist of digits only."
	case strings.Trim(password, string([]rune(password)[:1])) == "":
		return "The password must not be one character over and over."
	}
	switch strings.ToLower(password) {
	case "password", "passwort", "password1", "password123", "qwertyui", "qwertyuiop", "qwerty123", "iloveyou", "letmein1", "abcd1234":
		return "This password is among the first that anyone would try."
	}
	return ""
}

// checkEmail returns what is wrong with an e-mail address, or "". It may be empty.
func checkEmail(email string) string {
	if email == "" {
		return ""
	}
	if a, err := mail.ParseAddress(email); err != nil || a.Address != email || len(email) > MaxEmail || strings.ContainsFunc(email, unicode.IsControl) {
		return "This is not an e-mail address."
	}
	return ""
}

// cleanText takes the space around a line of text away and returns what is wrong with the rest, or "".
func cleanText(text *string, what string, limit int) string {
	*text = strings.TrimSpace(*text)
	switch {
	case *text == "":
		return fmt.Sprintf("Enter %s.", what)
	case utf8.RuneCountInString(*text) > limit:
		return fmt.Sprintf("At most %d characters.", limit)
	case !utf8.ValidString(*text) || strings.ContainsFunc(*text, unicode.IsControl):
		return "One line of text, without control characters."
	}
	return ""
}

// CheckText returns what is wrong with one line of text that people are to enter, or "". What names it in the message ("a
// name"); the limit is in characters. Space around the text does not count.
func CheckText(text, what string, limit int) string { return cleanText(&text, what, limit) }
