package polls

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math"
	"time"
)

// A Poll is a question with its choices.
type Poll struct {
	ID          int64
	Question    string
	CreatorID   int64
	CreatorName string
	CreatedAt   time.Time
	Votes       int64    // on all choices
	Choices     []Choice // nil in a list of polls
}

// A Choice is one of a poll's answers.
type Choice struct {
	ID     int64
	PollID int64
	Text   string
	Votes  int64
}

// FirstPage is the before of [Store.Polls] that is above every ID.
const FirstPage int64 = math.MaxInt64

const pollColumns = `p.id, p.question, p.created_by, u.username, p.created_at,
	(SELECT COUNT(*) FROM votes v WHERE v.poll_id = p.id)`

func scanPoll(row interface{ Scan(...any) error }) (p Poll, err error) {
	var created int64
	err = row.Scan(&p.ID, &p.Question, &p.CreatorID, &p.CreatorName, &created, &p.Votes)
	p.CreatedAt = fromMillis(created)
	if errors.Is(err, sql.ErrNoRows) {
		err = ErrNotFound
	}
	return p, err
}

// Polls lists up to limit polls, newest first, whose IDs are below before ([FirstPage] for all). It is one query.
func (s *Store) Polls(ctx context.Context, before int64, limit int) ([]Poll, error) {
	rows, err := s.db.QueryContext(ctx, `
		SELECT `+pollColumns+` FROM polls p JOIN users u ON u.id = p.created_by
		WHERE p.id < $1 ORDER BY p.id DESC LIMIT $2`, before, limit)
	if err != nil {
		return nil, fmt.Errorf("polls: list polls: %w", err)
	}
	all, err := collect(rows, func(rows *sql.Rows) (Poll, error) { return scanPoll(rows) })
	if err != nil {
		return nil, fmt.Errorf("polls: list polls: %w", err)
	}
	return all, nil
}

// Poll returns the poll with its choices, or [ErrNotFound].
func (s *Store) Poll(ctx context.Context, id int64) (Poll, error) {
	p, err := scanPoll(s.db.QueryRowContext(ctx, `
		SELECT `+pollColumns+` FROM polls p JOIN users u ON u.id = p.created_by WHERE p.id = $1`, id))
	if err != nil {
		return Poll{}, fmt.Errorf("polls: poll %d: %w", id, err)
	}
	rows, err := s.db.QueryContext(ctx, `
		SELECT c.id, c.poll_id, c.choice_text, COUNT(v.id)
		FROM choices c LEFT JOIN votes v ON v.poll_id = c.poll_id AND v.choice_id = c.id
		WHERE c.poll_id = $1 GROUP BY c.id, c.poll_id, c.choice_text ORDER BY c.id`, id)
	if err != nil {
		return Poll{}, fmt.Errorf("polls: choices of poll %d: %w", id, err)
	}
	p.Choices, err = collect(rows, func(rows *sql.Rows) (c Choice, err error) {
		return c, rows.Scan(&c.ID, &c.PollID, &c.Text, &c.Votes)
	})
	if err != nil {
		return Poll{}, fmt.Errorf("polls: choices of poll %d: %w", id, err)
	}
	p.Votes = 0 // Votes may have come in between the two queries: what is shown must add up.
	for _, c := range p.Choices {
		p.Votes += c.Votes
	}
	return p, nil
}

// CreatePoll adds a poll with its choices, all or nothing. Choices can be added later, too. It returns an [Invalid], or
// [ErrPlanLimit].
func (s *Store) CreatePoll(ctx context.Context, creator User, question string, choices ...string) (Poll, error) {
	choices = append([]string(nil), choices...)
	invalid := []FieldError{{"question", cleanText(&question, "a question", MaxQuestion)}}
	if len(choices) > MaxChoices {
		invalid = append(invalid, FieldError{"choices", fmt.Sprintf("At most %d choices.", MaxChoices)})
	}
	for i := range choices {
		invalid = append(invalid, FieldError{fmt.Sprintf("choices.%d", i+1), cleanText(&choices[i], "a choice", MaxChoice)})
	}
	if err := check(invalid...); err != nil {
		return Poll{}, err
	}
	p := Poll{Question: question, CreatorID: creator.ID, CreatorName: creator.Username, CreatedAt: fromMillis(millis(s.now()))}
	err := s.inTx(ctx, func(tx *sql.Tx) (err error) {
		if err := s.withinPlan(ctx, tx); err != nil {
			return err
		}
		p, err = insertPoll(ctx, tx, p, choices)
		return err
	})
	if err != nil {
		return Poll{}, fmt.Errorf("polls: create poll: %w", err)
	}
	return p, nil
}

// withinPlan returns [ErrPlanLimit] when the plan allows no further poll. It is called before anything else in the
// transaction that adds one.
func (s *Store) withinPlan(ctx context.Context, tx *sql.Tx) error {
	plan, err := s.plan(ctx)
	if err != nil || plan == "" {
		return err
	}
	// Taking the first user's row puts those who open polls at the same moment in line, on every database, so that the
	// count is right.
	if _, err := tx.ExecContext(ctx, `UPDATE users SET email = email WHERE id = (SELECT MIN(id) FROM users)`); err != nil {
		return err
	}
	var most, there int64
	err = tx.QueryRowContext(ctx, `SELECT max_polls, (SELECT COUNT(*) FROM polls) FROM plans WHERE id = $1`, plan).Scan(&most, &there)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return fmt.Errorf("there is no plan %q", plan)
	case err == nil && there >= most:
		return ErrPlanLimit
	}
	return err
}

func insertPoll(ctx context.Context, tx *sql.Tx, p Poll, choices []string) (Poll, error) {
	var err error
	p.ID, err = insert(ctx, tx, `INSERT INTO polls (question, created_by, created_at) VALUES ($1, $2, $3) RETURNING id`,
		p.Question, p.CreatorID, millis(p.CreatedAt))
	if err != nil {
		return p, err
	}
	for _, text := range choices {
		id, err := insert(ctx, tx, `INSERT INTO choices (poll_id, choice_text) VALUES ($1, $2) RETURNING id`, p.ID, text)
		if err != nil {
			return p, err
		}
		p.Choices = append(p.Choices, Choice{ID: id, PollID: p.ID, Text: text})
	}
	return p, nil
}

// SetQuestion changes what a poll asks. It returns an [Invalid], or [ErrNotFound].
func (s *Store) SetQuestion(ctx context.Context, id int64, question string) error {
	return s.EditPoll(ctx, id, PollEdit{Question: question})
}

// PollEdit is a change to a poll and its choices.
type PollEdit struct {
	Question string
	Texts    map[int64]string // choices to change, by ID
	Delete   []int64          // choices to delete, with the votes on them
	Add      []string         // choices to add
}

// EditPoll applies a change, all or nothing. It returns an [Invalid] whose fields are "question", "choice.ID" and "add.N"
// (from 1), or [ErrNotFound] when the poll or a choice of it is gone, or [ErrTooManyChoices].
func (s *Store) EditPoll(ctx context.Context, id int64, edit PollEdit) error {
	add := append([]string(nil), edit.Add...)
	texts := make(map[int64]string, len(edit.Texts))
	invalid := []FieldError{{"question", cleanText(&edit.Question, "a question", MaxQuestion)}}
	for choice, text := range edit.Texts {
		invalid = append(invalid, FieldError{fmt.Sprintf("choice.%d", choice), cleanText(&text, "a choice", MaxChoice)})
		texts[choice] = text
	}
	for i := range add {
		invalid = append(invalid, FieldError{fmt.Sprintf("add.%d", i+1), cleanText(&add[i], "a choice", MaxChoice)})
	}
	if err := check(invalid...); err != nil {
		return err
	}
	err := s.inTx(ctx, func(tx *sql.Tx) error {
		// The poll's row comes first in every change: it puts those who edit the same poll in line.
		if err := changed(tx.ExecContext(ctx, `UPDATE polls SET question = $1 WHERE id = $2`, edit.Question, id)); err != nil {
			return err
		}
		for choice, text := range texts {
			if err := changed(tx.ExecContext(ctx, `
				UPDATE choices SET choice_text = $1 WHERE id = $2 AND poll_id = $3`, text, choice, id)); err != nil {
				return err
			}
		}
		for _, choice := range edit.Delete {
			if err := changed(tx.ExecContext(ctx, `DELETE FROM choices WHERE id = $1 AND poll_id = $2`, choice, id)); err != nil {
				return err
			}
		}
		for _, text := range add {
			if _, err := insertChoice(ctx, tx, id, text); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("polls: edit poll %d: %w", id, err)
	}
	return nil
}

// DeletePoll deletes a poll with its choices and votes. It returns [ErrNotFound] when there is none.
func (s *Store) DeletePoll(ctx context.Context, id int64) error {
	if err := changed(s.db.ExecContext(ctx, `DELETE FROM polls WHERE id = $1`, id)); err != nil {
		return fmt.Errorf("polls: delete poll %d: %w", id, err)
	}
	return nil
}

// AddChoice adds a choice to a poll. It returns an [Invalid], [ErrNotFound] or [ErrTooManyChoices].
func (s *Store) AddChoice(ctx context.Context, pollID int64, text string) (Choice, error) {
	if err := check(FieldError{"choice_text", cleanText(&text, "a choice", MaxChoice)}); err != nil {
		return Choice{}, err
	}
	c := Choice{PollID: pollID, Text: text}
	err := s.inTx(ctx, func(tx *sql.Tx) (err error) {
		// Writing the poll's row puts those who add to it in line, so that the count is right, and keeps the poll from going.
		if err := changed(tx.ExecContext(ctx, `UPDATE polls SET question = question WHERE id = $1`, pollID)); err != nil {
			return err
		}
		c.ID, err = insertChoice(ctx, tx, pollID, text)
		return err
	})
	if err != nil {
		return Choice{}, fmt.Errorf("polls: add choice to poll %d: %w", pollID, err)
	}
	return c, nil
}

func insertChoice(ctx context.Context, tx *sql.Tx, pollID int64, text string) (int64, error) {
	id, err := insert(ctx, tx, `
		INSERT INTO choices (poll_id, choice_text)
		SELECT p.id, CAST($2 AS TEXT) FROM polls p
		WHERE p.id = $1 AND (SELECT COUNT(*) FROM choices c WHERE c.poll_id = p.id) < $3
		RETURNING id`, pollID, text, MaxChoices)
	if errors.Is(err, sql.ErrNoRows) {
		err = ErrTooManyChoices
	}
	return id, err
}

// Vote counts the user's vote for a choice of a poll. However many come at once, one is counted: the others get
// [ErrAlreadyVoted]. [ErrNotFound] means that the poll has no such choice.
func (s *Store) Vote(ctx context.Context, pollID, choiceID, userID int64) error {
	// One statement finds the choice and inserts the vote. When it did nothing, the unique key or the choice was the reason.
	_, err := insert(ctx, s.db, `
		INSERT INTO votes (poll_id, choice_id, user_id, created_at)
		SELECT c.poll_id, c.id, CAST($3 AS BIGINT), CAST($4 AS BIGINT) FROM choices c WHERE c.poll_id = $1 AND c.id = $2
		ON CONFLICT (user_id, poll_id) DO NOTHING RETURNING id`, pollID, choiceID, userID, millis(s.now()))
	if err == nil {
		return nil
	}
	// Also after an error: a choice deleted at this very moment fails the foreign key, and drivers have no common word for that.
	var found int
	lookup := s.db.QueryRowContext(ctx, `SELECT COUNT(*) FROM choices WHERE poll_id = $1 AND id = $2`, pollID, choiceID).Scan(&found)
	switch {
	case lookup == nil && found == 0:
		return fmt.Errorf("polls: choice %d of poll %d: %w", choiceID, pollID, ErrNotFound)
	case errors.Is(err, sql.ErrNoRows) && lookup == nil:
		return ErrAlreadyVoted
	case errors.Is(err, sql.ErrNoRows):
		err = lookup
	}
	return fmt.Errorf("polls: vote on poll %d: %w", pollID, err)
}

// VoteOf returns the choice that a user voted for, or 0.
func (s *Store) VoteOf(ctx context.Context, pollID, userID int64) (choiceID int64, err error) {
	err = s.db.QueryRowContext(ctx, `SELECT choice_id FROM votes WHERE user_id = $1 AND poll_id = $2`, userID, pollID).Scan(&choiceID)
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return 0, fmt.Errorf("polls: vote of user %d on poll %d: %w", userID, pollID, err)
	}
	return choiceID, nil
}
