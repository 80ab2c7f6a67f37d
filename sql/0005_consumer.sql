-- The consumer: ids are remembered with the source that made them, and events whose handler failed are
-- parked beside the data that they are to change.

-- CloudEvents 1.0, "id": a producer makes source + id unique. So another producer's id, forged or by
-- accident the same, is another event and suppresses none.
create table inbox_sourceless (
  consumer text        not null,
  event_id uuid        not null,
  moved_at timestamptz not null default clock_timestamp(),
  primary key (consumer, event_id)
);
comment on table inbox_sourceless is
  'Ids that were recorded without their source; forgotten when they have left the dedupe window.';
insert into inbox_sourceless (consumer, event_id) select consumer, event_id from inbox;
truncate inbox;

alter table inbox add column source text not null;
do $$
declare
  child text;
begin
  for child in select 'inbox_' || i from generate_series(0, 31) i union all select 'inbox_other' loop
    execute format('drop index %I', child || '_key');
    execute format('create unique index %I on %I (consumer, event_id, source)', child || '_key', child);
  end loop;
end $$;

-- Their ids are in the inbox: they were taken from the queue, and what is left to do is done from here.
create table inbox_parked (
  seq             bigint      generated always as identity primary key,  -- order within a key
  consumer        text        not null,
  event_id        uuid        not null,
  source          text        not null,
  key             text        not null,  -- '' for none
  type            text        not null,
  message         bytea       not null,  -- as it was delivered: CBOR
  attempts        int         not null,  -- begun, the present one included
  next_attempt_at timestamptz,           -- null: waits behind an earlier event of its key
  verdict         text,                  -- not null: goes to the dead-letter queue, for this reason
  error           text        not null default '',
  first_failed_at timestamptz,
  last_failed_at  timestamptz,
  parked_at       timestamptz not null default clock_timestamp()
) with (fillfactor = 80);
create index inbox_parked_key on inbox_parked (consumer, key, seq);
create index inbox_parked_due on inbox_parked (consumer, next_attempt_at) where next_attempt_at is not null;
