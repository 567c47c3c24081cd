package polls

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
)

// Demo is what [SeedDemo] fills an empty database with.
type Demo struct {
	Superuser    string // who asks the questions
	PasswordHash string // as [Store.HashPassword] made it; when it is empty the superuser cannot sign in
	Polls        []DemoPoll
}

// DemoPoll is a question with its choices and how many votes each gets, from made-up voters who cannot sign in.
type DemoPoll struct {
	Question string
	Choices  []string
	Votes    []int // one for each choice
}

// DemoPolls returns the polls of the tour for "thor" and "potter", and some that suit anyone for every other name.
func DemoPolls(name string) []DemoPoll {
	switch name {
	case "thor":
		return []DemoPoll{
			{"Who may lift the hammer?", []string{"Only the worthy", "Whoever brings gloves", "Nobody: it stays on the shelf"}, []int{9, 4, 2}},
			{"What is for dinner in Valhalla?", []string{"Boar, again", "Fish", "Mead counts as dinner"}, []int{3, 2, 7}},
			{"How do we get to Midgard this year?", []string{"The rainbow bridge", "The goats", "On foot"}, []int{6, 5, 0}},
		}
	case "potter":
		return []DemoPoll{
			{"Which house wins the cup?", []string{"Gryffindor", "Hufflepuff", "Ravenclaw", "Slytherin"}, []int{6, 5, 4, 3}},
			{"What did the mirror show you?", []string{"Socks", "My family", "Nothing, it was broken"}, []int{5, 8, 1}},
			{"Should owls deliver on Sundays?", []string{"Yes", "No"}, []int{7, 4}},
		}
	default:
		return []DemoPoll{
			{"Where shall we go for lunch?", []string{"The market", "The canteen", "We order in"}, []int{4, 1, 3}},
			{"Tabs or spaces?", []string{"Tabs", "Spaces", "gofmt has decided"}, []int{3, 2, 8}},
		}
	}
}

// SeedDemo adds the superuser, the polls and the votes of a demo, in one transaction. What is there already stays: a
// superuser of that name keeps their password, and when there is any poll at all, none is added. So it can be called again.
func SeedDemo(ctx context.Context, s *Store, demo Demo) error {
	hash := cmp.Or(demo.PasswordHash, unusablePassword)
	if err := check(FieldError{"username", CheckUsername(demo.Superuser)}); err != nil {
		return fmt.Errorf("polls: seed demo: %w", err)
	}
	for _, d := range demo.Polls {
		if len(d.Votes) > len(d.Choices) {
			return fmt.Errorf("polls: seed demo: %q has votes for %d choices and %d choices: give each its number", d.Question, len(d.Votes), len(d.Choices))
		}
	}
	now := millis(s.now())
	err := s.inTx(ctx, func(tx *sql.Tx) error {
		admin, err := ensureUser(ctx, tx, demo.Superuser, hash, true, now)
		if err != nil {
			return err
		}
		var there int
		if err := tx.QueryRowContext(ctx, `SELECT COUNT(*) FROM polls`).Scan(&there); err != nil || there > 0 {
			return err
		}
		var voters []int64
		for _, d := range demo.Polls {
			p, err := insertPoll(ctx, tx, Poll{Question: d.Question, CreatorID: admin, CreatedAt: fromMillis(now)}, d.Choices)
			if err != nil {
				return err
			}
			voter := 0
			for i, n := range d.Votes {
				for range n {
					if voter == len(voters) {
						id, err := ensureUser(ctx, tx, fmt.Sprintf("voter%02d", voter+1), unusablePassword, false, now)
						if err != nil {
							return err
						}
						voters = append(voters, id)
					}
					if _, err := tx.ExecContext(ctx, `
						INSERT INTO votes (poll_id, choice_id, user_id, created_at) VALUES ($1, $2, $3, $4)`,
						p.ID, p.Choices[i].ID, voters[voter], now); err != nil {
						return err
					}
					voter++
				}
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("polls: seed demo: %w", err)
	}
	return nil
}

// ensureUser returns the ID of the user of that name, whom it adds when there is none.
func ensureUser(ctx context.Context, tx *sql.Tx, name, hash string, superuser bool, now int64) (int64, error) {
	id, err := insert(ctx, tx, insertUser, name, "", hash, superuser, superuser, now)
	if errors.Is(err, sql.ErrNoRows) {
		err = tx.QueryRowContext(ctx, `SELECT id FROM users WHERE username = $1`, name).Scan(&id)
	}
	return id, err
}
