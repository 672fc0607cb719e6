//! The page by itself, with a stand-in for the API.

use anyhow::{Context, ensure};
use std::path::PathBuf;
use std::time::{Duration, Instant};
use vmtests::harness::Scene;
use vmtests::sysroot::target_directory;

use super::browser::Browser;
use super::fake::Fake;
use super::place::Place;

const ADDRESS: &str = "127.0.0.1:9464";
pub(crate) const ORIGIN: &str = "http://127.0.0.1:9464";
pub(crate) const SOON: Duration = Duration::from_secs(15);

/// Where the pictures go.
pub(crate) fn picture(name: &str) -> anyhow::Result<PathBuf> {
    let directory = target_directory().join("eyes");
    std::fs::create_dir_all(&directory)?;
    Ok(directory.join(format!("{name}.png")))
}

fn tame(ports: usize) -> Fake {
    Fake { ports, hostile: false, token: None }
}

pub(crate) const LIVE: &str = "document.querySelector('#link.live')";
pub(crate) const ROWS: &str = "document.querySelectorAll('#ports-table tr[data-port]').length";
/// What the port `web` sends, as its row says it.
const RATE: &str = "document.querySelector('#ports-table tr[data-port=web]').cells[3].textContent";

pub(crate) fn shows(scene: &Scene) -> anyhow::Result<()> {
    let place = Place::new(scene)?;
    let _server = place.serve(&tame(9), ADDRESS)?;
    let mut browser = scene.check("chromium starts", || place.browser(scene))?;
    browser.screen(1440, 1000, "light")?;
    browser.open(ORIGIN)?;
    scene.check("every port has a row and a card", || {
        browser.wait("live", LIVE, SOON)?;
        browser.wait("nine rows", &format!("{ROWS} === 9"), SOON)?;
        browser.wait("nine cards", "document.querySelectorAll('g.card').length === 9", SOON)
    })?;
    scene.check("rates are there and change", || {
        browser.wait("a rate", &format!("/[1-9]/.test({RATE})"), SOON)?;
        let first = browser.text(RATE)?;
        browser.wait("another rate", &format!("{RATE} !== {first:?}"), SOON)
    })?;
    scene.check("states, reasons and the promiscuous uplink are told", || {
        let table = browser.text("document.querySelector('#ports-table').innerText")?;
        for words in ["descriptor loop", "shut: guard", "promiscuous: port lab learns", "waiting", "faulted"]
        {
            ensure!(table.contains(words), "{words:?} is not in\n{table}");
        }
        browser.wait("drops", "document.querySelectorAll('#drops-chart .colour0').length > 3", SOON)?;
        let drops = browser.text("document.querySelector('#drops-table').innerText")?;
        ensure!(drops.contains("receiver-full") && drops.contains("no buffer"), "{drops}");
        Ok(())
    })?;
    scene.check("disks are listed with their rates, and filtered", || {
        let cell = |number: usize, column: usize| {
            format!(
                "document.querySelectorAll('#disks-table tbody tr')[{number}]?.cells[{column}].textContent"
            )
        };
        browser.wait("requests a second", &format!("/^[1-9].* k$/.test({})", cell(0, 3)), SOON)?;
        browser.wait("a mean", &format!("{}.startsWith('337 µs')", cell(1, 7)), SOON)?;
        let table = browser.text("document.querySelector('#disks-table').innerText")?;
        for words in ["root 0", "20 GiB", "/srv/images/root.img", "2 stuck", "read-only", "99 %: 2.70 ms"] {
            ensure!(table.contains(words), "{words:?} is not in\n{table}");
        }
        type_into(&mut browser, "#disks-filter", "faulted")?;
        browser.wait("one disk", "document.querySelectorAll('#disks-table tbody tr').length === 1", SOON)?;
        type_into(&mut browser, "#disks-filter", "")
    })?;
    scene.check("the FDB is listed and filtered", || {
        let rows = "document.querySelectorAll('#fdb-table tbody tr').length";
        browser.value("document.querySelector('#fdb').scrollIntoView({ behavior: 'instant' })")?;
        browser.wait("18 entries", &format!("{rows} === 18"), SOON)?;
        type_into(&mut browser, "#fdb-filter", "backup")?;
        browser.wait("two entries", &format!("{rows} === 2"), SOON)?;
        type_into(&mut browser, "#fdb-filter", "52-54-00-00-00-03")?;
        browser.wait("one entry", &format!("{rows} === 1"), SOON)?;
        type_into(&mut browser, "#fdb-filter", "")
    })?;
    scene.check("a trace is explained", || {
        browser.value(
            "document.querySelector('#trace-port').value = 'web';
             document.querySelector('#trace-frame').value = 'src=52:54:00:00:00:77 dst=ff:ff:ff:ff:ff:ff';
             document.querySelector('#trace-form').requestSubmit()",
        )?;
        let answer = "document.querySelector('#trace-answer').innerText";
        browser.wait("the verdict", &format!("{answer}.includes('drop: locked')"), SOON)?;
        browser.picture(&picture("whole-light")?, true)
    })?;
    scene.check("a port's details open by keyboard and close by Escape", || {
        browser
            .value("scrollTo({ top: 0, behavior: 'instant' }); document.querySelector('g.card').focus()")?;
        press(&mut browser, "Enter")?;
        let panel = "document.querySelector('#details')";
        browser.wait("the panel", &format!("!{panel}.hidden"), SOON)?;
        let text = browser.text(&format!("{panel}.innerText"))?;
        for words in ["web", "MRG_RXBUF", "52:54:00:00:00:00", "control-queue", "10.0.0.0/24", "from-guest"] {
            ensure!(text.contains(words), "{words:?} is not in\n{text}");
        }
        browser.picture(&picture("details-light")?, false)?;
        browser.screen(1440, 1000, "dark")?;
        browser.picture(&picture("details-dark")?, false)?;
        press(&mut browser, "Escape")?;
        browser.wait("the panel's end", &format!("{panel}.hidden"), SOON)?;
        browser.wait("the focus", "document.activeElement.classList.contains('card')", SOON)
    })?;
    scene.check("dark, and narrow", || {
        std::thread::sleep(Duration::from_secs(3));
        browser.picture(&picture("top-dark")?, false)?;
        browser.screen(420, 900, "light")?;
        std::thread::sleep(Duration::from_millis(1500));
        browser.picture(&picture("narrow")?, true)?;
        let wide = browser.value("document.documentElement.scrollWidth <= innerWidth")?;
        ensure!(wide == true, "a narrow screen has to be scrolled sideways");
        Ok(())
    })?;
    scene.check("no complaint, and nobody else was asked", || {
        browser.must_be_content(|_| false)?;
        browser.must_have_asked_only(ORIGIN)
    })
}

pub(crate) fn hostile(scene: &Scene) -> anyhow::Result<()> {
    let place = Place::new(scene)?;
    let _server = place.serve(&Fake { ports: 40, hostile: true, token: None }, ADDRESS)?;
    let mut browser = place.browser(scene)?;
    browser.screen(1440, 1000, "light")?;
    browser.open(ORIGIN)?;
    scene.check("names that are markup are shown as they are", || {
        browser.wait("rows", &format!("{ROWS} > 10"), SOON)?;
        browser.wait("drops", "document.querySelector('#drops-table').innerText.includes('script')", SOON)?;
        let table = browser.text("document.querySelector('#ports-table').innerText")?;
        ensure!(table.contains(super::fake::HOSTILE[0]), "{table}");
        let disks = browser.text("document.querySelector('#disks-table').innerText")?;
        ensure!(disks.contains(super::fake::HOSTILE[1]), "{disks}");
        Ok(())
    })?;
    scene.check("in the details, the FDB and a trace too", || {
        browser.value(
            "document.querySelector('#fdb').scrollIntoView({ behavior: 'instant' });
             document.querySelector('#trace-port').value = '<b>x</b>';
             document.querySelector('#trace-frame').value = '<img src=x onerror=window.broken=6>';
             document.querySelector('#trace-form').requestSubmit()",
        )?;
        browser.wait("the trace", "document.querySelector('#trace-answer').innerText.includes('<img')", SOON)?;
        browser.wait("the FDB", "document.querySelectorAll('#fdb-table tbody tr').length === 80", SOON)?;
        for number in [4, 8] {
            let row = format!("[...document.querySelectorAll('#ports-table tr')].find((row) => row.dataset.port?.startsWith('{number} ')).click()");
            browser.value(&row)?;
            browser.wait("the panel", "document.querySelector('#details').innerText.includes('broken')", SOON)?;
        }
        Ok(())
    })?;
    scene.check("nothing became markup or ran", || {
        std::thread::sleep(Duration::from_secs(2));
        ensure!(browser.value("window.broken === undefined")? == true, "text of a guest or user ran as a script");
        let foreign = "document.querySelectorAll('img:not(h1 img), main script, table svg, [onload], [onerror]').length";
        ensure!(browser.value(foreign)? == 0, "text became markup");
        browser.picture(&picture("hostile")?, false)?;
        browser.must_be_content(|_| false)?;
        browser.must_have_asked_only(ORIGIN)
    })
}

pub(crate) fn outage(scene: &Scene) -> anyhow::Result<()> {
    let place = Place::new(scene)?;
    let mut server = place.serve(&tame(9), ADDRESS)?;
    let mut browser = place.browser(scene)?;
    browser.open(ORIGIN)?;
    browser.wait("live", LIVE, SOON)?;
    scene.check("a server that is gone is told loudly, and old figures are pale", || {
        server.kill();
        browser.wait("the alarm", "!document.querySelector('#alarm').hidden", SOON)?;
        browser.wait("paleness", "document.body.classList.contains('old')", SOON)?;
        let alarm = browser.text("document.querySelector('#alarm').innerText")?;
        ensure!(alarm.contains("does not answer") && alarm.contains("What is shown is of"), "{alarm}");
        browser.picture(&picture("outage")?, false)
    })?;
    scene.check("it comes back by itself", || {
        server = place.serve(&tame(5), ADDRESS)?;
        browser.wait("live", LIVE, SOON)?;
        browser.wait("five rows", &format!("{ROWS} === 5"), SOON)?;
        browser.wait("no alarm", "document.querySelector('#alarm').hidden", SOON)
    })?;
    browser.must_be_content(|words| words.contains("ERR_CONNECTION"))
}

pub(crate) fn token(scene: &Scene) -> anyhow::Result<()> {
    let place = Place::new(scene)?;
    let fake = Fake { token: Some("correct horse battery".into()), ..tame(3) };
    let _server = place.serve(&fake, ADDRESS)?;
    let mut browser = place.browser(scene)?;
    browser.open(ORIGIN)?;
    let open = "document.querySelector('#login').open";
    let enter = |browser: &mut Browser, token: &str| {
        browser.wait("the question", open, SOON)?;
        browser.picture(&picture("token")?, false)?;
        browser.value(&format!(
            "document.querySelector('#login-token').value = {token:?};
             document.querySelector('#login-form').requestSubmit()"
        ))
    };
    scene.check("the token is asked for, and again if it is wrong", || {
        enter(&mut browser, "wrong")?;
        let again = "document.querySelector('#login-why').innerText.includes('refused')";
        browser.wait("the second question", &format!("{open} && {again}"), SOON)
    })?;
    scene.check("with the right one the page lives, also after a reload", || {
        enter(&mut browser, "correct horse battery")?;
        browser.wait("live", LIVE, SOON)?;
        browser.open(ORIGIN)?;
        browser.wait("live again", &format!("{LIVE} && !{open}"), SOON)
    })?;
    browser.must_be_content(|words| words.contains("401"))
}

pub(crate) fn thousand(scene: &Scene) -> anyhow::Result<()> {
    let place = Place::new(scene)?;
    let _server = place.serve(&tame(1000), ADDRESS)?;
    let mut browser = place.browser(scene)?;
    browser.screen(1440, 1000, "light")?;
    let start = Instant::now();
    browser.open(ORIGIN)?;
    scene.check("all of them are counted, few are drawn as rows", || {
        browser.wait("live", LIVE, SOON)?;
        browser.wait("1000", "document.querySelector('#ports-count').innerText === '1000'", SOON)?;
        scene.note(&format!("first picture after {:?}", start.elapsed()));
        let rows = browser.value(ROWS)?;
        ensure!(rows.as_u64().is_some_and(|rows| rows > 5 && rows < 60), "{rows} rows");
        let squares = browser.value("document.querySelectorAll('.field rect').length")?;
        ensure!(squares.as_u64().is_some_and(|squares| squares > 900), "{squares} squares");
        Ok(())
    })?;
    scene.check("the table scrolls, sorts and filters", || {
        browser.value("document.querySelector('#ports-scroll').scrollTop = 1e9")?;
        browser.wait("the last row", "document.querySelector('tr[data-port=vm999]') !== null", SOON)?;
        browser.value("document.querySelector('th[data-sort=in] button').click()")?;
        type_into(&mut browser, "#ports-filter", "vm73 running")?;
        // vm73 and vm730 to vm739.
        browser.wait("eleven rows", &format!("{ROWS} === 11"), SOON)?;
        type_into(&mut browser, "#ports-filter", "")
    })?;
    scene.check("an update takes little of the browser's time", || {
        std::thread::sleep(Duration::from_secs(5));
        browser.call("Performance.enable", serde_json::json!({}))?;
        let answers =
            "performance.getEntriesByType('resource').filter((each) => each.name.endsWith('/api/ports')).length";
        let (first, before) = (browser.value(answers)?, busy(&mut browser)?);
        std::thread::sleep(Duration::from_secs(6));
        let (last, after) = (browser.value(answers)?, busy(&mut browser)?);
        let updates = last.as_u64().zip(first.as_u64()).map_or(0, |(last, first)| last - first);
        scene.note(&format!("{updates} updates in 6 s"));
        ensure!(updates >= 2, "the page asked {updates} times in 6 s");
        let share = |index: usize| (after[index] - before[index]) / (after[BUSY.len()] - before[BUSY.len()]);
        let parts: Vec<String> = BUSY
            .iter()
            .enumerate()
            .map(|(index, name)| format!("{name} {:.0} %", share(index) * 100.0))
            .collect();
        scene.note(&format!("the page's thread: {}", parts.join(", ")));
        let share = share(0);
        ensure!(share < 0.7, "{share}");
        browser.picture(&picture("thousand")?, false)
    })?;
    browser.must_be_content(|_| false)
}

/// What the page's main thread works at, by Chromium's account in seconds.
const BUSY: [&str; 4] = ["TaskDuration", "ScriptDuration", "RecalcStyleDuration", "LayoutDuration"];

/// [`BUSY`], and the time.
fn busy(browser: &mut Browser) -> anyhow::Result<Vec<f64>> {
    let metrics = browser.call("Performance.getMetrics", serde_json::json!({}))?;
    let metrics = metrics["metrics"].as_array().cloned().unwrap_or_default();
    let value = |name: &str| {
        let metric = metrics.iter().find(|metric| metric["name"] == name);
        metric.and_then(|metric| metric["value"].as_f64()).with_context(|| format!("no metric {name}"))
    };
    BUSY.iter().copied().chain(["Timestamp"]).map(value).collect()
}

fn type_into(browser: &mut Browser, field: &str, text: &str) -> anyhow::Result<()> {
    browser.value(&format!(
        "(() => {{ const field = document.querySelector({field:?}); field.value = {text:?};
         field.dispatchEvent(new Event('input')); }})()"
    ))?;
    Ok(())
}

fn press(browser: &mut Browser, key: &str) -> anyhow::Result<()> {
    for kind in ["keyDown", "keyUp"] {
        let event = serde_json::json!({ "type": kind, "key": key, "code": key });
        browser.call("Input.dispatchKeyEvent", event)?;
    }
    Ok(())
}
