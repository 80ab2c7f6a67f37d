-- What a service knows of the products, kept up to date by events. The two counters are there to be
-- checked: events_applied is the product's version when nothing was lost or applied twice.
CREATE TABLE IF NOT EXISTS product_cache (
  sku            text PRIMARY KEY,
  name           text NOT NULL,
  version        int NOT NULL,
  deleted        boolean NOT NULL,
  events_applied int NOT NULL DEFAULT 1,
  out_of_order   int NOT NULL DEFAULT 0,
  changed_at     timestamptz NOT NULL DEFAULT now()
);
