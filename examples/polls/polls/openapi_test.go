package polls_test

import (
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tenement-go/tenement/examples/polls/polls"
)

func TestDescriptionAndRoutesAgree(t *testing.T) {
	t.Parallel()
	a := newApp(t, openSQLite(t), polls.Config{})
	description := a.api("GET", "/openapi.json", "", nil).object(http.StatusOK)
	assert.True(t, strings.HasPrefix(description["openapi"].(string), "3.1"))
	yaml := a.api("GET", "/openapi.yaml", "", nil)
	assert.Equal(t, "application/yaml", yaml.Header().Get("Content-Type"))

	var documented []string
	operations := map[string]bool{}
	for path, item := range description["paths"].(fields) {
		for method, op := range item.(fields) {
			if method == "parameters" {
				continue
			}
			documented = append(documented, strings.ToUpper(method)+" "+path)
			id := op.(fields)["operationId"].(string)
			assert.False(t, operations[id], "two operations are called %s", id)
			operations[id] = true
			assert.NotEmpty(t, op.(fields)["responses"])
		}
	}
	assert.ElementsMatch(t, polls.APIRoutes(), documented)

	// Every reference leads somewhere.
	var walk func(node any)
	walk = func(node any) {
		switch n := node.(type) {
		case fields:
			if to, ok := n["$ref"].(string); ok {
				require.NotNil(t, resolve(description, to), to)
			}
			for _, child := range n {
				walk(child)
			}
		case []any:
			for _, child := range n {
				walk(child)
			}
		}
	}
	walk(description)
}

func resolve(root fields, ref string) any {
	var node any = root
	for _, key := range strings.Split(strings.TrimPrefix(ref, "#/"), "/") {
		object, ok := node.(fields)
		if !ok {
			return nil
		}
		node = object[key]
	}
	return node
}

// What the API answers has the fields that its description promises, and no others.
func TestAnswersMatchTheDescription(t *testing.T) {
	t.Parallel()
	a := newApp(t, openSQLite(t), polls.Config{})
	description := a.api("GET", "/openapi.json", "", nil).object(http.StatusOK)
	matches := func(schema string, body fields) {
		t.Helper()
		s := resolve(description, "#/components/schemas/"+schema).(fields)
		var promised, got []string
		for name := range s["properties"].(fields) {
			promised = append(promised, name)
		}
		for name := range body {
			got = append(got, name)
		}
		for _, name := range s["required"].([]any) {
			assert.Contains(t, got, name, schema)
		}
		for _, name := range got {
			assert.True(t, slices.Contains(promised, name), "%s: %s is not described", schema, name)
		}
	}
	matches("User", a.api("POST", "/users/", "", fields{"username": "freya", "password": password}).object(http.StatusCreated))
	matches("Token", a.api("POST", "/login/", "", fields{"username": "freya", "password": password}).object(http.StatusOK))
	token := a.token("freya")
	matches("PollDetail", a.api("POST", "/polls/", token, fields{"question": "?"}).object(http.StatusCreated))
	matches("Choice", a.api("POST", "/polls/1/choices/", token, fields{"choice_text": "x"}).object(http.StatusCreated))
	matches("Vote", a.api("POST", "/polls/1/choices/1/vote/", token, nil).object(http.StatusCreated))
	matches("Poll", a.api("GET", "/polls/", "", nil).list(http.StatusOK)[0])
	matches("Error", a.api("GET", "/polls/x/", "", nil).object(http.StatusNotFound))
	choice := a.api("GET", "/polls/1/choices/", "", nil).list(http.StatusOK)[0]
	matches("Choice", choice)
	data, err := json.Marshal(choice)
	require.NoError(t, err)
	assert.JSONEq(t, `{"id":1,"poll":1,"choice_text":"x","votes":1}`, string(data))
}
