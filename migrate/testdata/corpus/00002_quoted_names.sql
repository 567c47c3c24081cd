-- +goose Up
CREATE TABLE "Order" ("select" INTEGER PRIMARY KEY, "has space" TEXT, "semi;colon" TEXT, "quo""te" TEXT);
CREATE INDEX "Index On;Order" ON "Order" ("has space", "semi;colon");
INSERT INTO "Order" ("select", "has space", "semi;colon", "quo""te") VALUES (1, 'a', 'b', 'c');
