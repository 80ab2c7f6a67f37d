-- The table of the product service. A deleted product keeps its row, so that its versions go on
-- counting when the same sku is created again: one event per version, for every sku.
CREATE TABLE IF NOT EXISTS product (
  sku        text PRIMARY KEY,
  name       text NOT NULL,
  version    int NOT NULL DEFAULT 1,
  deleted    boolean NOT NULL DEFAULT false,
  changed_at timestamptz NOT NULL DEFAULT now()
);
