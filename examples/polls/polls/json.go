package polls

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
)

func writeJSON(w http.ResponseWriter, status int, body any) {
	data, err := json.Marshal(body)
	if err != nil {
		panic(fmt.Errorf("polls: encode %T: %w", body, err)) // The bodies above can all be encoded.
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(append(data, '\n')) // An error means that the client is gone.
}

func isJSON(contentType string) bool {
	mediaType, _, err := mime.ParseMediaType(contentType)
	return err == nil && mediaType == "application/json"
}

// readJSON reads the body, one JSON object, into the variables that fields names. A field that is not there stays as it
// was. What is not in fields is refused, so that a misspelled field does not pass for one that was left out.
func readJSON(w http.ResponseWriter, r *http.Request, fields map[string]any) error {
	if !isJSON(r.Header.Get("Content-Type")) {
		return &problem{Status: http.StatusUnsupportedMediaType, Message: "Send JSON, with Content-Type: application/json."}
	}
	data, err := readBody(w, r)
	if err != nil {
		return err
	}
	var object map[string]json.RawMessage
	if err := json.Unmarshal(data, &object); err != nil || object == nil {
		return &problem{Status: http.StatusBadRequest, Message: "The body must be one JSON object."}
	}
	for name, value := range object {
		target, ok := fields[name]
		if !ok {
			return &problem{Status: http.StatusBadRequest, Message: "There is no such field.", Field: name}
		}
		if err := json.Unmarshal(value, target); err != nil || string(value) == "null" {
			return &problem{Status: http.StatusBadRequest, Message: "This must be a string.", Field: name}
		}
	}
	return nil
}

func readBody(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	data, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	return data, bodyError(err)
}

// bodyError explains why a body could not be read.
func bodyError(err error) error {
	var tooLarge *http.MaxBytesError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &tooLarge):
		return &problem{Status: http.StatusRequestEntityTooLarge, Message: fmt.Sprintf("The body is larger than %d bytes.", tooLarge.Limit)}
	default:
		return &problem{Status: http.StatusBadRequest, Message: "The body could not be read."}
	}
}
