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

-- The document as jsonb keeps it: of two members with one name, the second. As it is, when jsonb does
-- not take it for another reason.
create function event_json_kept(document text) returns text language plpgsql immutable as $$
begin
  return replace(document, '\u0000', '\u0001')::jsonb::text;
exception when others then
  return document;
end $$;

-- As before (0003), and: not more than a million values, each of which takes memory when it is parsed,
-- and no name twice in one object, of which readers disagree which counts (RFC 8259, section 4).
create or replace function check_event_json(document text) returns void language plpgsql as $$
declare
  bare text;
  kept text;
  levels int := 0;
begin
  kept := event_json_kept(document);
  if length(document) - length(replace(document, ':', '')) <> length(kept) - length(replace(kept, ':', ''))
     or length(document) - length(translate(document, '[{,', '')) > 999999 then
    bare := regexp_replace(document, '"([^"\\]|\\.)*"', '""', 'g');
    if length(bare) - length(translate(bare, '[{,', '')) > 999999 then
      perform refuse_event('data', 'holds more than 1000000 JSON values');
    end if;
    kept := regexp_replace(kept, '"([^"\\]|\\.)*"', '""', 'g');
    if length(bare) - length(replace(bare, ':', '')) <> length(kept) - length(replace(kept, ':', '')) then
      perform refuse_event('data', 'has a JSON object in which a name occurs twice');
    end if;
  end if;
  if position('\u' in document) > 0 then
    begin  -- jsonb knows surrogates; a zero, which it refuses, is no fault
      perform replace(document, '\u0000', '\u0001')::jsonb;
    exception when invalid_text_representation or untranslatable_character then
      perform refuse_event('data', 'escapes half a surrogate pair');
    end;
  end if;
  if length(document) - length(translate(document, '[{', '')) <= 256
     and document !~ '[0-9]{100}|[eE][+]?[0-9]{3}' then
    return;
  end if;
  bare := regexp_replace(document, '"([^"\\]|\\.)*"', '""', 'g');
  if bare ~ '[0-9]{100}|[eE][+]?[0-9]{3}' then
    begin
      if exists (select from regexp_matches(bare, '[0-9]+(?:[.][0-9]+)?(?:[eE][-+]?[0-9]+)?', 'g') n
                  where n[1]::numeric > 1.7976931348623157e308) then
        perform refuse_event('data', 'holds a number larger than any double');
      end if;
    exception when numeric_value_out_of_range or invalid_text_representation then
      perform refuse_event('data', 'holds a number larger than any double');
    end;
  end if;
  bare := translate(regexp_replace(bare, '[^][{}]+', '', 'g'), '{}', '[]');
  while bare <> '' loop  -- each pass takes the innermost level away
    levels := levels + 1;
    if levels > 256 then perform refuse_event('data', 'is nested deeper than 256 levels'); end if;
    bare := replace(bare, '[]', '');
  end loop;
end $$;
