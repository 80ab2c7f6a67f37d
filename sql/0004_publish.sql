-- Publishing from SQL, for triggers and other languages.

-- Helpers of publish_bytes(), under whose search path they run: to set it again takes longer than they do.

create function refuse_event(field text, problem text) returns void language plpgsql as $$
begin
  raise exception 'event field ''%'' %', field, problem using errcode = 'invalid_parameter_value';
end $$;

-- Holds a text to a limit in bytes of UTF-8, as the wire counts them.
create function check_event_text(field text, value text, shortest int, longest int) returns void
  language plpgsql as $$
declare
  size int := octet_length(convert_to(coalesce(value, ''), 'UTF8'));
begin
  if size < shortest then
    perform refuse_event(field, format('is empty; 1 to %s bytes are needed', longest));
  elsif size > longest then
    perform refuse_event(field, format('is %s bytes long; the limit is %s bytes', size, longest));
  end if;
end $$;

-- The document as jsonb keeps it: of two members with one name, the second. As it is, when jsonb does
-- not take it for another reason.
create function event_json_kept(document text) returns text language plpgsql immutable as $$
begin
  return replace(document, E'\\u0000', E'\\u0001')::jsonb::text;
exception when others then
  return document;
end $$;

-- Is this JSON, which is known to be well formed, more than a consumer takes? It may not hold more than
-- a million values, each of which takes memory when it is parsed, name a member twice in one object, of
-- which readers disagree which counts (RFC 8259, section 4), nest deeper than 256 levels (deeper JSON is
-- an attack on the parser), escape half a surrogate pair, or hold a number larger than any double. Each
-- is ruled out by a look that costs little, and proved only when that look does not.
create function check_event_json(document text) returns void language plpgsql as $$
declare
  bare text;
  kept text;
  levels int := 0;
begin
  kept := event_json_kept(document);
  if length(document) - length(replace(document, ':', '')) <> length(kept) - length(replace(kept, ':', ''))
     or length(document) - length(translate(document, '[{,', '')) > 999999 then
    bare := regexp_replace(document, E'"([^"\\\\]|\\\\.)*"', '""', 'g');
    if length(bare) - length(translate(bare, '[{,', '')) > 999999 then
      perform refuse_event('data', 'holds more than 1000000 JSON values');
    end if;
    kept := regexp_replace(kept, E'"([^"\\\\]|\\\\.)*"', '""', 'g');
    if length(bare) - length(replace(bare, ':', '')) <> length(kept) - length(replace(kept, ':', '')) then
      perform refuse_event('data', 'has a JSON object in which a name occurs twice');
    end if;
  end if;
  if position(E'\\u' in document) > 0 then
    begin  -- jsonb knows surrogates; a zero, which it refuses, is no fault
      perform replace(document, E'\\u0000', E'\\u0001')::jsonb;
    exception when invalid_text_representation or untranslatable_character then
      perform refuse_event('data', 'escapes half a surrogate pair');
    end;
  end if;
  if length(document) - length(translate(document, '[{', '')) <= 256
     and document !~ '[0-9]{100}|[eE][+]?[0-9]{3}' then
    return;
  end if;
  bare := regexp_replace(document, E'"([^"\\\\]|\\\\.)*"', '""', 'g');
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

create function check_event_time(field text, value timestamptz) returns void language plpgsql as $$
begin
  if value < '1970-01-01 00:00:00+00' or value >= '2200-01-01 00:00:00+00' then
    perform refuse_event(field, 'is outside the years 1970 to 2199');
  end if;
end $$;

-- CC and BCC are names by which RabbitMQ routes, and which it wants to be lists.
create function check_event_headers(headers json) returns void language plpgsql as $$
declare
  header record;
  total bigint := 0;
begin
  if headers is null then return; end if;
  if json_typeof(headers) <> 'object' then
    perform refuse_event('headers', 'is no JSON object of names and texts');
  end if;
  if (select count(*) > count(distinct h.name) from json_object_keys(headers) h(name)) then
    perform refuse_event('headers', 'has a header twice');  -- of which jsonb would keep the second
  end if;
  for header in select h.key as name, h.value from json_each(headers) h loop
    if header.name = '' then perform refuse_event('headers', 'has a header without a name'); end if;
    perform check_event_text('headers (a name)', header.name, 1, 255);
    if header.name ~ '^(x-|cloudEvents|pillion-)' or header.name in ('traceparent', 'tracestate', 'CC', 'BCC') then
      perform refuse_event('headers', format(
        'has the header ''%s'', a name that AMQP, CloudEvents or Pillion uses', header.name));
    end if;
    if json_typeof(header.value) <> 'string' then
      perform refuse_event('headers', format('has the header ''%s'', whose value is no text', header.name));
    end if;
    total := total + 6 + octet_length(convert_to(header.name, 'UTF8'))
                   + octet_length(convert_to(header.value #>> '{}', 'UTF8'));
  end loop;
  if total > 65536 then
    perform refuse_event('headers', format('is %s bytes long; the limit is 65536 bytes', total));
  end if;
end $$;

-- UUID version 7 (RFC 9562): the time in milliseconds, the rest random.
create function new_event_id(made_at timestamptz default clock_timestamp()) returns uuid
  language sql volatile as $$
  select (lpad(to_hex(floor(extract(epoch from made_at) * 1000)::bigint), 12, '0')
          || '7' || substr(r.digits, 14, 3) || substr(r.digits, 17, 16))::uuid
    from (select replace(gen_random_uuid()::text, '-', '') as digits) r
$$;

-- The id that is given, or a new one. Consumers measure their dedupe window from the time in the id, so
-- an event that is due in days has an id of its due time, or consumers would dead-letter it when it
-- comes. Within 12 hours, half of the shortest window, it does not matter.
create function event_id_for(id uuid, deliver_at timestamptz) returns uuid language plpgsql as $$
declare
  digits text := replace(id::text, '-', '');
begin
  if id is null then
    return new_event_id(case when deliver_at > clock_timestamp() + interval '12 hours' then deliver_at
                             else clock_timestamp() end);
  end if;
  if deliver_at is not null and substr(digits, 13, 1) = '7'
     and ('x0000' || left(digits, 12))::bit(64)::bigint / 1000.0
         < extract(epoch from deliver_at) - 12 * 3600 then
    perform refuse_event('id', 'carries a time that is more than 12 hours before deliverAt, so consumers'
      ' would take the event for one they may have forgotten; leave the id out, or make it with the due time');
  end if;
  return id;
end $$;

-- Writes an event of any content type in the caller's transaction; returns its id. The limits and
-- their messages are those of the C++ publisher. Each `null` means what an unset field means there.
create function publish_bytes(
    type text, data bytea, content_type text, key text default null, headers json default null,
    source text default null, id uuid default null, "time" timestamptz default null,
    correlation_id text default null, causation_id text default null,
    traceparent text default null, tracestate text default null,
    deliver_at timestamptz default null, expires_at timestamptz default null)
  returns uuid language plpgsql set search_path from current as $$
declare
  new_id uuid;
  event_time timestamptz := coalesce(publish_bytes.time, clock_timestamp());
  event_source text := coalesce(publish_bytes.source, current_setting('pillion.source', true));
  bare_type text := lower(rtrim(split_part(publish_bytes.content_type, ';', 1)));
  own_headers jsonb := publish_bytes.headers::jsonb;
  document text;
begin
  perform check_event_text('type', publish_bytes.type, 1, 255);
  if publish_bytes.type ~ E'[\\x01-\\x20\\x7f*#]' then
    perform refuse_event('type', 'holds a blank, a control character, ''*'' or ''#''; it is a routing'
      ' key of words separated by dots, such as product.created');
  end if;
  perform check_event_text('source', event_source, 1, 255);
  perform check_event_text('key', publish_bytes.key, 0, 255);
  perform check_event_text('contentType', publish_bytes.content_type, 1, 255);
  perform check_event_text('correlationId', publish_bytes.correlation_id, 0, 255);
  perform check_event_text('causationId', publish_bytes.causation_id, 0, 255);
  if publish_bytes.traceparent !~ '^[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$' then
    perform refuse_event('traceparent', format('is %s bytes and not of the form 00-<32 hex>-<16 hex>-'
      '<2 hex> (W3C Trace Context)', octet_length(publish_bytes.traceparent)));
  end if;
  perform check_event_text('tracestate', publish_bytes.tracestate, 0, 512);
  perform check_event_headers(publish_bytes.headers);
  perform check_event_time('time', event_time);
  perform check_event_time('deliverAt', publish_bytes.deliver_at);
  new_id := event_id_for(publish_bytes.id, publish_bytes.deliver_at);
  perform check_event_time('expiresAt', publish_bytes.expires_at);
  if data is null then perform refuse_event('data', 'is null'); end if;
  if octet_length(data) > 16777216 then
    perform refuse_event('data', format('is %s bytes long; the limit is 16777216 bytes', octet_length(data)));
  end if;
  if bare_type in ('application/json', 'text/json') or bare_type like '%+json' then
    begin
      document := convert_from(data, 'UTF8');
      perform document::json;
    exception when invalid_text_representation or character_not_in_repertoire
                or untranslatable_character or statement_too_complex then
      perform refuse_event('data', format(
        'is not JSON, which its content type ''%s'' says it is', publish_bytes.content_type));
    end;
    perform check_event_json(document);
  end if;
  if publish_bytes.deliver_at is null then
    insert into outbox (event_id, type, source, key, time, content_type, correlation_id,
                        causation_id, traceparent, tracestate, expires_at, headers, payload)
    values (new_id, publish_bytes.type, event_source, nullif(publish_bytes.key, ''), event_time,
            publish_bytes.content_type, nullif(publish_bytes.correlation_id, ''),
            nullif(publish_bytes.causation_id, ''), publish_bytes.traceparent,
            nullif(publish_bytes.tracestate, ''), publish_bytes.expires_at,
            nullif(own_headers, '{}')::json, data);
  else
    insert into scheduled (deliver_at, event_id, type, source, key, time, content_type,
                           correlation_id, causation_id, traceparent, tracestate, expires_at,
                           headers, payload)
    values (publish_bytes.deliver_at, new_id, publish_bytes.type, event_source,
            nullif(publish_bytes.key, ''), event_time, publish_bytes.content_type,
            nullif(publish_bytes.correlation_id, ''), nullif(publish_bytes.causation_id, ''),
            publish_bytes.traceparent, nullif(publish_bytes.tracestate, ''),
            publish_bytes.expires_at, nullif(own_headers, '{}')::json, data);
  end if;
  return new_id;
end $$;

-- The same for JSON, which is what nearly all events are. Text and json travel as they are given; a
-- literal, and a parameter of a driver that declares no types, is text.
create function publish(
    type text, data text, key text default null, headers json default null,
    source text default null, id uuid default null, "time" timestamptz default null,
    correlation_id text default null, causation_id text default null,
    traceparent text default null, tracestate text default null,
    deliver_at timestamptz default null, expires_at timestamptz default null)
  returns uuid language sql volatile
  return publish_bytes(publish.type, convert_to(publish.data, 'UTF8'), 'application/json',
                       publish.key, publish.headers, publish.source, publish.id, publish.time,
                       publish.correlation_id, publish.causation_id, publish.traceparent,
                       publish.tracestate, publish.deliver_at, publish.expires_at);

create function publish(
    type text, data json, key text default null, headers json default null,
    source text default null, id uuid default null, "time" timestamptz default null,
    correlation_id text default null, causation_id text default null,
    traceparent text default null, tracestate text default null,
    deliver_at timestamptz default null, expires_at timestamptz default null)
  returns uuid language sql volatile
  return publish_bytes(publish.type, convert_to(publish.data::text, 'UTF8'), 'application/json',
                       publish.key, publish.headers, publish.source, publish.id, publish.time,
                       publish.correlation_id, publish.causation_id, publish.traceparent,
                       publish.tracestate, publish.deliver_at, publish.expires_at);

create function publish(
    type text, data jsonb, key text default null, headers json default null,
    source text default null, id uuid default null, "time" timestamptz default null,
    correlation_id text default null, causation_id text default null,
    traceparent text default null, tracestate text default null,
    deliver_at timestamptz default null, expires_at timestamptz default null)
  returns uuid language sql volatile
  return publish_bytes(publish.type, convert_to(publish.data::text, 'UTF8'), 'application/json',
                       publish.key, publish.headers, publish.source, publish.id, publish.time,
                       publish.correlation_id, publish.causation_id, publish.traceparent,
                       publish.tracestate, publish.deliver_at, publish.expires_at);
